"""Compared results in, comparison.html out: the winner first, then the table, what was changed, and curves."""

import math
from collections.abc import Sequence

from stage3_eval.compare.ranking import COLUMNS, Comparison, Result, verdict
from stage3_eval.report.charts import Line, line_chart
from stage3_eval.report.formatting import (
    amount,
    both,
    document,
    escape,
    legend,
    name_cell,
    number,
    section,
    table,
    times,
)

KINDS = 6  # kinds of line that can be told apart; further results start over


def page(results: Sequence[Result], told: Comparison) -> str:
    """Return the whole page."""
    by_label = {result.label: result for result in results}
    ordered = [by_label[name] for name in told.order]
    of = told.lead
    kind = "verdict" if of and of.larger_than_spread else "verdict open"
    body = [
        f'<div class="{kind}" id="verdict"><strong>{escape(verdict(told))}</strong>{_lead(ordered, told)}</div>',
        section("table", "Side by side", _table(ordered, told)),
        section("changed", "What was changed", _changed(told)),
        section("curves", "Curves", _curves(ordered)),
    ]
    header = f"<h1>{len(results)} evaluations compared</h1>"
    footer = "The numbers are in <code>comparison.csv</code> and <code>comparison.json</code> beside this page."
    return document("Comparison", header, "".join(body), footer)


def _lead(ordered: Sequence[Result], told: Comparison) -> str:
    of, units = told.lead, _units(ordered, told.metric)
    if of is None:
        return "<p>Compare results of the same dataset, protocol and at least three common episodes.</p>"
    low, high = amount(of.low, units), amount(of.high, units)
    return (
        f"<p>By {escape(told.metric)}, {escape(told.order[0])} is better by {amount(of.mean, units)} per episode on "
        f"average; choosing {of.episodes} such episodes again and again (10,000 times, in pairs) puts that between {low} "
        f"and {high} in 95 of 100 cases. A range that contains 0 means: it may be chance.</p>"
    )


def _table(ordered: Sequence[Result], told: Comparison) -> str:
    metric, heads = told.metric, list(COLUMNS)
    rows = []
    for result in ordered:
        units, of = result.summary.units, told.columns[result.label]
        name = name_cell(result.label)
        name = f'<a href="{escape(result.link, quote=True)}">{name}</a>' if result.link else name
        latency = of[heads[4]]
        cells = [
            both(of[heads[0]], units),
            amount(of[heads[1]], units),
            times(of[heads[2]]),
            amount(of[heads[3]], units),
        ]
        cells += [
            "&ndash;" if latency is None else f"{number(1000 * latency)} ms",
            str(len(result.summary.episodes)),
        ]
        if metric not in COLUMNS.values():
            cells.insert(0, both(told.values[result.label], _units(ordered, metric)))
        rows.append([name, *cells])
    head = ["", *([] if metric in COLUMNS.values() else [escape(metric)]), *heads[:4], "latency p50", "episodes"]
    ours = None if told.incomparable else 0
    return table(f"Best by {metric} first; a name leads to its own page", head, rows, us=ours)


def _changed(told: Comparison) -> str:
    if not told.changed:
        return "<p>Nothing that the checkpoints recorded: the same hyperparameters everywhere, or none are known.</p>"
    rows = [[escape(key), *(escape(str(of[name])) for name in told.order)] for key, of in told.changed.items()]
    head = ["hyperparameter", *map(name_cell, told.order)]
    return table("Only those that are not the same everywhere", head, rows)


def _curves(ordered: Sequence[Result]) -> str:
    names = [(f"c{place % KINDS}", result.label) for place, result in enumerate(ordered)]
    units = {result.summary.units for result in ordered}
    in_degrees = units == {"rad"}
    horizon = []
    for (kind, name), result in zip(names, ordered, strict=True):
        errors = [math.degrees(value) if in_degrees else value for value in result.summary.policy.mae_by_step]
        horizon.append(Line(name, [step / result.summary.fps for step in range(len(errors))], errors, kind))
    chart = line_chart(
        "Mean error by how far ahead", horizon, "seconds ahead", "degrees" if in_degrees else "", 460, 220, True
    )
    parts = f"<figure><figcaption>Mean error by how far ahead the action lies</figcaption>{chart}</figure>"
    losses = [
        Line(name, [step for step, _ in result.losses], [loss for _, loss in result.losses], kind)
        for (kind, name), result in zip(names, ordered, strict=True)
        if result.losses
    ]
    if losses:
        chart = line_chart("Training loss by step", losses, "step", "L1 loss", 460, 220, True)
        parts += f"<figure><figcaption>Training loss (L1, normalized units)</figcaption>{chart}</figure>"
    missing = [result.label for result in ordered if not result.losses]
    note = f'<p class="soft">No metrics.jsonl found for {escape(", ".join(missing))}.</p>' if missing else ""
    return f'{legend(names)}<div class="charts wide">{parts}</div>{note}'


def _units(ordered: Sequence[Result], metric: str) -> str:
    """Errors and drifts are in the dataset's units; ratios and seconds are plain numbers."""
    is_angle = metric.startswith(("policy.", "baselines.", "drift.")) or "_step." in metric
    units = {result.summary.units for result in ordered}
    return units.pop() if is_angle and len(units) == 1 else ""
