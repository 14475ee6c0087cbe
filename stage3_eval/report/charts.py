"""Numbers and images in, inline SVG and data URLs for a page out: no script, no library, nothing to load."""

import base64
import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Image = npt.NDArray[np.uint8]
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 30  # px around the plot
JPEG_QUALITY = 82


class Line(NamedTuple):
    """One curve: `kind` is its CSS class (see page.css), which decides color and dashes."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    kind: str


class Mark(NamedTuple):
    """A labeled vertical line."""

    label: str
    x: float


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    width: int = 340,
    height: int = 170,
    zero: bool = False,
) -> str:
    """Draw curves over common axes; `zero` makes the y axis start at 0. `title` is what a screen reader says."""
    xs = [value for line in lines for value in line.x]
    ys = [value for line in lines for value in line.y if math.isfinite(value)]
    x_low, x_high = _range(min(xs, default=0.0), max(xs, default=1.0))
    y_low, y_high = _range(0.0 if zero else min(ys, default=0.0), max(ys, default=1.0))
    to_x, to_y = _scale(x_low, x_high, LEFT, width - RIGHT), _scale(y_low, y_high, height - BOTTOM, TOP)
    body = _axes(width, height, (x_low, x_high), (y_low, y_high), x_label, y_label)
    for line in lines:
        points = " ".join(
            f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)
        )
        body += f'<polyline class="line {line.kind}" points="{points}"/>'
    return _svg(title, body, width, height)


def histogram(title: str, values: Sequence[float], x_label: str, marks: Sequence[Mark] = (), bins: int = 32) -> str:
    """Draw how often values occur, with labeled vertical lines."""
    width, height = 460, 190
    top = max([*values, *(mark.x for mark in marks)], default=1.0)
    counts, edges = np.histogram(values, bins=bins, range=(min(values, default=0.0) * 0.95, top * 1.03))
    x_low, x_high, y_high = float(edges[0]), float(edges[-1]), float(counts.max(initial=1))
    to_x, to_y = _scale(x_low, x_high, LEFT, width - RIGHT), _scale(0, y_high, height - BOTTOM, TOP + 14)
    body = _axes(width, height, (x_low, x_high), (0, y_high), x_label, "calls", top=TOP + 14)
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            x, y = to_x(left), to_y(count)
            size = f'width="{to_x(right) - x - 0.5:.1f}" height="{height - BOTTOM - y:.1f}"'
            body += f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" {size}/>'
    taken: list[float] = []
    for mark in marks:
        x = to_x(mark.x)
        level = 10 if all(abs(x - other) > 34 for other in taken) else 20
        taken.append(x)
        body += f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{level + 2}" y2="{height - BOTTOM}"/>'
        body += f'<text class="tick" x="{x:.1f}" y="{level}" text-anchor="middle">{html.escape(mark.label)}</text>'
    return _svg(title, body, width, height)


def heat_map(values_AT: Floats, top: float) -> str:
    """Return a PNG as a data URL: a row of pixels per joint, a column per frame, black is 0 and yellow `top` or more."""
    scaled = np.clip(values_AT / (top or 1.0), 0, 1) * 255
    return _data_url(cv2.applyColorMap(scaled.astype(np.uint8), cv2.COLORMAP_INFERNO), ".png")


def image(image_HWC: Image, width: int) -> str:
    """Return an RGB image as a JPEG data URL, made smaller when it is wider than `width`."""
    if image_HWC.shape[1] > width:
        height = max(1, round(image_HWC.shape[0] * width / image_HWC.shape[1]))
        image_HWC = cv2.resize(image_HWC, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return _data_url(image_HWC[..., ::-1], ".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return a few round numbers between `low` and `high`."""
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _data_url(pixels: Any, kind: str, options: Sequence[int] = ()) -> str:
    done, encoded = cv2.imencode(kind, np.ascontiguousarray(pixels), list(options))
    assert done, f"OpenCV cannot encode {kind}"
    media = {".png": "image/png", ".jpg": "image/jpeg"}[kind]
    return f"data:{media};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _axes(
    width: int, height: int, x: tuple[float, float], y: tuple[float, float], x_label: str, y_label: str, top: int = TOP
) -> str:
    to_x, to_y = _scale(*x, LEFT, width - RIGHT), _scale(*y, height - BOTTOM, top)
    body = ""
    for value in ticks(*y):
        at = to_y(value)
        body += f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        body += f'<text class="tick" x="{LEFT - 5}" y="{at + 3.5:.1f}" text-anchor="end">{value:g}</text>'
    for value in ticks(*x, 5):
        body += (
            f'<text class="tick" x="{to_x(value):.1f}" y="{height - BOTTOM + 13}" text-anchor="middle">{value:g}</text>'
        )
    body += f'<text class="axis" x="{width - RIGHT}" y="{height - 4}" text-anchor="end">{html.escape(x_label)}</text>'
    return body + f'<text class="axis" x="2" y="{height - 4}">{html.escape(y_label)}</text>'


def _svg(title: str, body: str, width: int, height: int) -> str:
    label = html.escape(title, quote=True)
    return f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {height}">{body}</svg>'


def _range(low: float, high: float) -> tuple[float, float]:
    if high - low < 1e-12:
        pad = abs(high) * 0.1 or 1.0
        return low - pad, high + pad
    return low, high + 0.04 * (high - low)


def _scale(low: float, high: float, start: float, stop: float) -> Any:
    return lambda value: start + (value - low) / (high - low) * (stop - start)
