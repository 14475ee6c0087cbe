"""Charts as geometry: the positions of curves, bars and labels. components.html.j2 draws them as inline SVG. Pure.

A plot is stretched to the width of the screen; its labels are HTML, so that text keeps its size. Horizontal positions
of curves and bars run from 0 to 1000, vertical ones from 0 (top) to 100; those of labels are percentages of the plot.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from common.report.formatting import MINUS

Values = Sequence[float] | npt.NDArray[Any]

MAX_POINTS = 240  # of a curve: more cannot be told apart
MARGIN = 0.03  # share of the extent that is kept free above and below a curve


class Line(NamedTuple):
    """A curve; `kind` is the CSS class that gives it color and dashes, `label` what a legend calls it."""

    label: str
    x: Values
    y: Values
    kind: str


class Mark(NamedTuple):
    """A labeled vertical line at a value of the x axis."""

    label: str
    x: float


class Span(NamedTuple):
    """A part of a timeline, from `start` to `stop` in 0 to 1; `kind` is the CSS class that colors it."""

    start: float
    stop: float
    kind: str


class Label(NamedTuple):
    """Text beside a plot, in percent from its left or upper edge; `row` is 1 where row 0 is taken."""

    position: float
    text: str
    row: int = 0


class Path(NamedTuple):
    """A curve as SVG path data."""

    kind: str
    points: str


class Bar(NamedTuple):
    """A rectangle."""

    kind: str
    x: float
    y: float
    width: float
    height: float


class Plot(NamedTuple):
    """Everything to draw; `label` is what a screen reader says, `height` is in CSS pixels."""

    label: str
    height: int
    paths: Sequence[Path] = ()
    bars: Sequence[Bar] = ()
    x_labels: Sequence[Label] = ()
    y_labels: Sequence[Label] = ()
    marks: Sequence[Label] = ()
    limit: float | None = None  # where a horizontal line is


def line_chart(
    label: str, lines: Sequence[Line], x_unit: str = "", y_unit: str = "", height: int = 130, from_zero: bool = False
) -> Plot:
    """Return curves over common axes, which are labeled with round numbers and their units."""
    xs = [float(value) for line in lines for value in line.x]
    ys = [float(value) for line in lines for value in line.y if math.isfinite(value)]
    x_range = _padded(min(xs, default=0.0), max(xs, default=1.0))
    y_range = _padded(min(ys, default=0.0), max(ys, default=1.0), MARGIN)
    if from_zero:
        y_range = (min(0.0, *ys), y_range[1])
    return Plot(
        label,
        height,
        paths=[Path(line.kind, _path(line, x_range, y_range)) for line in lines],
        x_labels=_x_labels(x_range, x_unit),
        y_labels=_y_labels(y_range, y_unit),
    )


def sparkline(label: str, line: Line, unit: str = "", height: int = 56, limit: float | None = None) -> Plot:
    """Return one curve that fills its plot, with its extremes as labels; with a `limit`, from 0 to at least the limit."""
    low, high = float(np.min(line.y)), float(np.max(line.y))
    extremes, bottom, top = f"from {short(low)} to {short(high)}", low, high
    if limit is not None:
        bottom, top = min(0.0, low), max(high, limit)
        extremes += f" {unit}, limit {short(limit)}"
    y_range = _padded(bottom, top, MARGIN)
    return Plot(
        f"{label}: {extremes} {unit}".strip(),
        height,
        paths=[Path(line.kind, _path(line, _padded(float(line.x[0]), float(line.x[-1])), y_range))],
        y_labels=[Label(0, _axis_number(top, top - bottom)), Label(100, _axis_number(bottom, top - bottom))],
        limit=None if limit is None else _percent(limit, y_range[::-1]),
    )


def histogram(
    label: str,
    values: Sequence[float],
    x_unit: str,
    marks: Sequence[Mark] = (),
    bins: int = 32,
    from_zero: bool = False,
) -> Plot:
    """Return how often values occur, with labeled vertical lines; a rare value stays visible."""
    top = max([*values, *(mark.x for mark in marks)], default=1.0)
    low, high = 0.0 if from_zero else min(values, default=0.0) * 0.95, top * 1.03
    counts, edges = np.histogram(values, bins=bins, range=(low, high if high > low else low + 1))
    x_range, y_range = (float(edges[0]), float(edges[-1])), (0.0, float(counts.max(initial=1)))
    width = 1000 / bins
    heights = np.where(counts, np.maximum(np.round(100 * counts / counts.max(initial=1), 1), 1.0), 0.0).tolist()
    bars = [
        Bar("count", round(width * index, 1), 100 - height, width - 1.5, height)
        for index, height in enumerate(heights)
        if height
    ]
    return Plot(
        label,
        170,
        bars=bars,
        x_labels=_x_labels(x_range, x_unit),
        y_labels=_y_labels(y_range, ""),
        marks=_in_rows(Label(_percent(mark.x, x_range), mark.label) for mark in marks),
    )


def timeline(label: str, spans: Sequence[Span], start: str, stop: str) -> Plot:
    """Return a strip of colored spans with a label at either end; a short span stays visible."""
    bars = [
        Bar(part.kind, round(1000 * part.start, 1), 0, round(max(1000 * (part.stop - part.start), 2), 1), 100)
        for part in spans
    ]
    return Plot(label, 14, bars=bars, x_labels=[Label(0, start), Label(100, stop)])


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return a few round numbers between `low` and `high`."""
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """Write a number with three digits, and with a true minus sign."""
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "0" if text == "-0" else text.replace("-", MINUS)


def _x_labels(extent: tuple[float, float], unit: str) -> list[Label]:
    return [Label(_percent(tick, extent), f"{_signed(tick)}{unit}") for tick in ticks(*extent, 5)]


def _y_labels(extent: tuple[float, float], unit: str) -> list[Label]:
    return [Label(_percent(tick, extent[::-1]), f"{_signed(tick)}{unit}") for tick in ticks(*extent)]


def _signed(value: float) -> str:
    return f"{value:g}".replace("-", MINUS)


def _axis_number(value: float, extent: float) -> str:
    """Write a number with as many decimals as an axis of this extent needs."""
    if extent <= 0:
        return short(value)
    decimals = min(max(0, 2 - math.floor(math.log10(extent))), 5)
    text = f"{value:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if decimals else text
    return "0" if text in ("-0", "") else text.replace("-", MINUS)


def _path(line: Line, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    """Return a polyline through the values that are finite; of too many, through the extremes of every stretch."""
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if len(y) > MAX_POINTS:
        edges = np.linspace(0, len(y), MAX_POINTS // 2 + 1).astype(int)
        pairs = [(a + int(y[a:b].argmin()), a + int(y[a:b].argmax())) for a, b in itertools.pairwise(edges)]
        kept = np.unique(pairs)
        x, y = x[kept], y[kept]
    points = zip(10 * _percent(x, x_range), _percent(y, y_range[::-1]), strict=True)
    return "M" + "L".join(f"{px:.0f} {py:.1f}" for px, py in points) if len(y) else ""


def _percent(value: Any, extent: tuple[float, float]) -> Any:
    """Return the positions of values between two ends, in percent."""
    return np.round(100 * (value - extent[0]) / (extent[1] - extent[0]), 2)


def _padded(low: float, high: float, margin: float = 0.0) -> tuple[float, float]:
    """Return the range widened by a share of its extent on either side; a range without extent gets one."""
    extent = high - low
    if extent < 1e-12:
        pad = abs(high) * 0.1 or 1.0
        return low - pad, high + pad
    return low - margin * extent, high + margin * extent


def _in_rows(labels: Iterable[Label]) -> list[Label]:
    """Lift labels that would be written over the one before."""
    placed: list[Label] = []
    for label in labels:
        is_taken = any(abs(label.position - other.position) < 10 and other.row == 0 for other in placed)
        placed.append(label._replace(row=int(is_taken)))
    return placed
