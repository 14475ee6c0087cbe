"""Numbers and names of a summary in, the words and HTML pieces that a person reads out. Pure."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stage3_eval.metrics.summary import FIRST_STEP
from stage3_eval.report.style import CSS

BASELINE_WORDS = {
    "zero_action": "not moving",
    "hold_still": "staying in place",
    "repeat_last": "repeating the last action",
    "dataset_mean": "the mean action",
    "linear_extrapolation": "going on at the present speed",
}
escape = html.escape


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits and no exponent; a dash for None."""
    if value is None or not math.isfinite(value):
        return "&ndash;"
    text = np.format_float_positional(value, precision=digits, fractional=False, trim="-")
    return str(text) if abs(value) >= 1e-9 else "0"


def amount(value: float | None, units: str) -> str:
    """Write an angle in degrees, which people see before them; other units as they are."""
    if value is None:
        return "&ndash;"
    return f"{number(math.degrees(value), 2)}°" if units == "rad" else number(value)


def both(value: float | None, units: str) -> str:
    """Write an angle in degrees and, softer, in radians; other units as they are."""
    if value is None or units != "rad":
        return number(value)
    return f'{amount(value, units)} <span class="unit">{number(value)} rad</span>'


def times(ratio: float | None) -> str:
    """Write a ratio to something else's error."""
    return "&ndash;" if ratio is None else f"{number(ratio, 2)} &times;"


def name_cell(name: str) -> str:
    """Write a name so that it may break after its underscores and slashes."""
    return escape(name).replace("_", "_<wbr>").replace("/", "/<wbr>")


def milliseconds(seconds: float | None) -> str:
    """Write seconds as milliseconds."""
    return "&ndash;" if seconds is None else f"{number(1000 * seconds)} ms"


def share(value: float) -> str:
    """Write a share as a percentage that never rounds something to nothing."""
    return "0 %" if value == 0 else "under 0.1 %" if value < 0.001 else f"{100 * value:.1f} %"


def baseline(name: str) -> str:
    """Say what a baseline does."""
    return BASELINE_WORDS.get(name, name.replace("_", " "))


def verdict(summary: dict[str, Any], scope: str) -> str:
    """Say in one line whether the policy beats the best baseline over `scope`, and by how much."""
    best, ratio = baseline(summary["best_baseline"][scope]), summary["ratio_to_best_baseline"][scope]
    if ratio is None:
        return f"No verdict: {best} makes no error at all; do these episodes move?"
    where = " at the first step" if scope == FIRST_STEP else ""
    word = "Better than every simple rule" if ratio < 1 else "NOT better than a simple rule"
    return f"{word}: {ratio:.2f} times the error of {best}{where}"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], us: int | None = None) -> str:
    """Return a table whose cells are HTML already, in a region that scrolls by itself on a narrow screen."""
    cells = "".join(f'<th scope="col">{cell}</th>' if cell else "<td></td>" for cell in head)
    body = ""
    for place, (first, *rest) in enumerate(rows):
        kind = ' class="us"' if place == us else ""
        body += f'<tr{kind}><th scope="row">{first}</th>' + "".join(_cell(cell) for cell in rest) + "</tr>"
    label = escape(caption, quote=True)
    return (
        f'<p class="soft caption">{escape(caption)}</p><div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<table aria-label="{label}"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def meter(value: float, top: float) -> str:
    """Return a cell with a bar; the number stands in a cell of its own."""
    width = 100 * value / top if top > 0 else 0
    return f'<td class="meter" aria-hidden="true"><span style="width:{width:.1f}%"></span></td>'


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Return a row of facts: what, how much, and a word about it."""
    return '<dl class="tiles">' + "".join(_tile(*item) for item in items) + "</dl>"


def section(name: str, title: str, body: str) -> str:
    """Return a titled section that links can point to."""
    return f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>{body}</section>'


def legend(items: Iterable[tuple[str, str]]) -> str:
    """Return the meaning of line kinds: (CSS class, words)."""
    line = '<svg viewBox="0 0 28 10" aria-hidden="true"><polyline class="line {}" points="0,5 28,5"/></svg>'
    return (
        '<ul class="legend">'
        + "".join(f"<li>{line.format(kind)}{escape(words)}</li>" for kind, words in items)
        + "</ul>"
    )


def document(title: str, header: str, body: str, footer: str) -> str:
    """Return a whole page with the style sheet inside."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{CSS}</style></head><body>'
        f'<a class="skip" href="#main">Skip to the result</a><header>{header}</header>'
        f'<main id="main">{body}</main><footer>{footer}</footer></body></html>\n'
    )


def _cell(cell: str) -> str:
    return cell if cell.startswith("<td") else f"<td>{cell}</td>"


def _tile(what: str, how_much: str, about: str) -> str:
    return f"<div><dt>{escape(what)}</dt><dd>{how_much}<small>{escape(about)}</small></dd></div>"
