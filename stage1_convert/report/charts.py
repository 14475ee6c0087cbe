"""Arrays in, inline SVG with its labels in HTML out: text keeps its size whatever the width of the screen. Pure."""

import itertools
import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

POINTS = 220  # of a curve: about one for each pixel of its width
WIDTH = 1000


class Curve(NamedTuple):
    """Values of every frame, how they are drawn (state or action), and their unit."""

    values: Floats
    kind: str
    unit: str


class Bar(NamedTuple):
    """A stretch of a bag, `start` to `stop` in 0 to 1, of a kind: episode, this (episode), gap or idle."""

    start: float
    stop: float
    kind: str


def figure(title: str, curves: Sequence[Curve], height: int = 56) -> str:
    """Return curves of one joint or stream below each other, each with its own scale, titled."""
    plots = "".join(_plot(curve, title, height if at == 0 else height * 2 // 3) for at, curve in enumerate(curves))
    unit = f' <span class="soft">{escape(curves[0].unit)}</span>' if curves[0].unit else ""
    return f"<figure><figcaption>{escape(title)}{unit}</figcaption>{plots}</figure>"


def limited(title: str, curve: Curve, limit: float, height: int = 64) -> str:
    """Return one curve from 0 on with a dashed line at `limit`."""
    words = f"{title}, oldest {_short(float(np.max(curve.values)))} of at most {_short(limit)} {curve.unit}"
    return f"<figure><figcaption>{escape(words)}</figcaption>{_plot(curve, title, height, limit)}</figure>"


def timeline(bars: Sequence[Bar], label: str) -> str:
    """Return a bag as a strip of colored stretches."""
    boxes = "".join(
        f'<rect class="f-{bar.kind}" x="{bar.start * WIDTH:.1f}" width="{max((bar.stop - bar.start) * WIDTH, 2):.1f}" '
        'y="0" height="14"/>'
        for bar in bars
    )
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH} 14" height="14" '
        f'preserveAspectRatio="none">{boxes}</svg>'
    )


def _plot(curve: Curve, title: str, height: int, limit: float | None = None) -> str:
    values = np.asarray(curve.values, np.float64)
    low, high = float(values.min()), float(values.max())
    label, line = f"{title}, {curve.kind}: from {_short(low)} to {_short(high)} {curve.unit}", ""
    bottom, top = low, high
    if limit is not None:
        bottom, top = min(0.0, low), max(high, limit)
        at = _y(limit, bottom, top, height)
        line = f'<line class="limit" x1="0" x2="{WIDTH}" y1="{at:.1f}" y2="{at:.1f}"/>'
        label += f", limit {_short(limit)} {curve.unit}"
    return (
        f'<div class="chart"><div class="axis" aria-hidden="true"><span>{_short(top, top - bottom)}</span>'
        f"<span>{_short(bottom, top - bottom)}</span></div>"
        f'<svg class="plot" role="img" aria-label="{escape(label.strip())}" viewBox="0 0 {WIDTH} {height}" '
        f'height="{height}" preserveAspectRatio="none">{line}'
        f'<path class="line {curve.kind}" d="{_path(values, bottom, top, height)}"/></svg></div>'
    )


def _path(values: Floats, bottom: float, top: float, height: int) -> str:
    """Return a polyline through the values; where there are too many, through the extremes of every stretch."""
    at = np.arange(len(values))
    if len(values) > POINTS:
        edges = np.linspace(0, len(values), POINTS // 2 + 1).astype(int)
        extremes = [
            (a + int(values[a:b].argmin()), a + int(values[a:b].argmax())) for a, b in itertools.pairwise(edges)
        ]
        at = np.unique([place for pair in extremes for place in pair])
    x = at / max(len(values) - 1, 1) * WIDTH
    y = _y(values[at], bottom, top, height)
    return "M" + "L".join(f"{a:.0f} {b:.1f}" for a, b in zip(x, np.broadcast_to(y, x.shape), strict=True))


def _y(values: Any, bottom: float, top: float, height: int) -> Any:
    """Return where values lie, with 2 px of air; a curve without extent lies in the middle."""
    share = (values - bottom) / (top - bottom) if top > bottom else 0.5
    return 2 + (1 - share) * (height - 4)


def _short(value: float, extent: float | None = None) -> str:
    """Return a number with three digits, or with as many decimals as the axis of this extent needs."""
    if extent is None or extent <= 0:
        text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    else:
        text = f"{value:.{min(max(0, 2 - math.floor(math.log10(extent))), 5)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text.replace("-", "\N{MINUS SIGN}")
