"""Measures figures in turn within a given time, and prints each as one JSON line and all of them as a table."""

import gc
import json
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple, NoReturn

import torch

from common.cli.command import one_line

Result = dict[str, Any]
COLUMNS = ("figure", "batch", "step_ms", "samples_per_s", "peak_gb", "plain_by_this")


class Figure(NamedTuple):
    """One thing to measure; what cannot be had on this device gives {"left_out": why}."""

    name: str
    batch: int
    measure: Callable[[], Result]


class TimeIsUp(BaseException):
    """The time of all figures is over."""


def measure_all(listed: Sequence[Figure], seconds: float) -> list[Result]:
    """Measure the figures in turn and print each; those for which no time is left are left out."""

    def stop(*_: object) -> NoReturn:
        raise TimeIsUp

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    results: list[Result] = []
    is_time_up = False
    for figure in listed:
        result: Result = {"bench": "gpu", "figure": figure.name, "batch": figure.batch}
        try:
            result |= {"left_out": "no time left"} if is_time_up else measured(figure)
        except TimeIsUp:
            is_time_up = True
            result["left_out"] = f"not done within {seconds:.0f} s"
        results.append(result | _ratio(results, result))
        print(json.dumps(results[-1]), flush=True)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return results


def _ratio(earlier: Sequence[Result], result: Result) -> Result:
    """Return how many times as long the first plain figure of the same kind and batch took."""
    plains = [other for other in earlier if other["figure"].startswith("plain") and other["batch"] == result["batch"]]
    for plain, key in product(plains, ("step_ms", "p50_ms")):
        if key in plain and key in result:
            return {"plain_by_this": round(plain[key] / result[key], 2)}
    return {}


def measured(figure: Figure) -> Result:
    """Return what a figure gives, or the error with which it failed."""
    try:
        return figure.measure()
    except Exception as error:  # the other figures are worth having
        return {"failed": f"{type(error).__name__}: {one_line(error)[:300]}"}
    finally:
        torch.compiler.reset()
        gc.collect()
        with suppress(RuntimeError):  # after some errors, nothing works on the device any more
            torch.cuda.empty_cache()  # does nothing without one


def print_table(results: Sequence[Result]) -> None:
    """Print the figures as a table in Markdown."""
    print(f"\n| {' | '.join(COLUMNS)} | more |\n|{'---|' * (len(COLUMNS) + 1)}")
    for result in results:
        more = ", ".join(f"{key} {value}" for key, value in result.items() if key not in (*COLUMNS, "bench"))
        print(f"| {' | '.join(str(result.get(column, '')) for column in COLUMNS)} | {more} |")
