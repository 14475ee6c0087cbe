"""Numbers and names as a person reads them. Pure; every function is a filter of the templates, too."""

import math

import numpy as np

FILTERS = ("angle", "cell", "counted", "duration", "grouped", "milliseconds", "number", "ratio", "share", "words")
UNKNOWN, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with `digits` significant digits and no exponent; None and what is not finite are a dash."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    text = np.format_float_positional(value, precision=digits, fractional=False, trim="-")
    return str(text).replace("-", MINUS) if abs(value) >= 1e-9 else "0"


def angle(value: float | None, units: str) -> str:
    """Write radians as degrees, which people can picture; a value in other units as it is."""
    if value is None:
        return UNKNOWN
    return f"{number(math.degrees(value), 2)}°" if units == "rad" else number(value)


def ratio(value: float | None) -> str:
    """Write a factor with a multiplication sign."""
    return UNKNOWN if value is None else f"{number(value, 2)} \N{MULTIPLICATION SIGN}"


def share(value: float) -> str:
    """Write a share of 1 as a percentage; a small one is never rounded to zero."""
    return "0 %" if value == 0 else "under 0.1 %" if value < 0.001 else f"{100 * value:.1f} %"


def milliseconds(seconds: float | None) -> str:
    """Write seconds as milliseconds."""
    return UNKNOWN if seconds is None else f"{number(1000 * seconds)} ms"


def duration(seconds: float) -> str:
    """Write seconds in the unit in which they are easiest to grasp."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def grouped(count: int) -> str:
    """Write a whole number with its digits in groups of three."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """Write how many there are of something, whose plural ends in s: `1 gap`, `1,200 gaps`, `2 processes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{grouped(count)} {noun if count == 1 else plural}"


def words(name: str) -> str:
    """Write an identifier as words."""
    return name.replace("_", " ")


def cell(value: object) -> str:
    """Write a value for a cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ")
