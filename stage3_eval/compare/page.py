"""The page of a comparison, comparison.html: the winner first, then the table, what was changed, and curves. Pure."""

from collections.abc import Sequence

import numpy as np

from common.report import render
from common.report.charts import Line, Plot, line_chart
from stage3_eval.compare.ranking import COLUMNS, Comparison, Result, verdict

N_LINE_STYLES = 6  # c0 to c5 in style.css; further results reuse them
HEIGHT_PX = 220


def page(results: Sequence[Result], comparison: Comparison) -> str:
    """Return the page as HTML."""
    by_label = {result.label: result for result in results}
    ordered = [by_label[name] for name in comparison.order]
    return render(
        "stage3_eval.compare",
        "comparison.html.j2",
        comparison=comparison,
        answer=verdict(comparison),
        results=ordered,
        datasets=list(dict.fromkeys(result.summary.dataset for result in ordered)),
        protocols=list(dict.fromkeys(result.summary.protocol for result in ordered)),
        units=_metric_units(ordered, comparison.metric),
        is_column=comparison.metric in COLUMNS.values(),
        legend=[(_line_style(index), result.label) for index, result in enumerate(ordered)],
        horizon=_draw_horizon(ordered),
        losses=_draw_losses(ordered),
        without_losses=[result.label for result in ordered if not result.losses],
    )


def _line_style(index: int) -> str:
    return f"c{index % N_LINE_STYLES}"


def _draw_horizon(ordered: Sequence[Result]) -> Plot:
    in_degrees = {result.summary.units for result in ordered} == {"rad"}
    lines = []
    for index, result in enumerate(ordered):
        errors = np.array(result.summary.policy.mae_by_step)
        seconds = np.arange(len(errors)) / result.summary.fps
        lines.append(Line(result.label, seconds, np.degrees(errors) if in_degrees else errors, _line_style(index)))
    unit = "°" if in_degrees else ""
    return line_chart("Mean error by how far ahead the action lies", lines, " s", unit, HEIGHT_PX, from_zero=True)


def _draw_losses(ordered: Sequence[Result]) -> Plot | None:
    lines = []
    for index, result in enumerate(ordered):
        if result.losses:
            steps, losses = zip(*result.losses, strict=True)
            lines.append(Line(result.label, steps, losses, _line_style(index)))
    return line_chart("Training loss by step", lines, height=HEIGHT_PX, from_zero=True) if lines else None


def _metric_units(ordered: Sequence[Result], metric: str) -> str:
    """Return the units of a metric: errors and drifts have those of the dataset, ratios and seconds are plain numbers."""
    own = {name for result in ordered for name in result.summary.other_units}
    is_angle = metric.startswith(("policy.", "baselines.", "drift.")) or "_step." in metric
    units = {result.summary.units for result in ordered}
    of_own = any(f".{name}." in f"{metric}." for name in own)
    return units.pop() if is_angle and not of_own and len(units) == 1 else ""
