"""Measures figures in turn within a given time, and prints each as one JSON line and all of them as a table."""

import gc
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import torch

from common.cli.command import one_line

Result = dict[str, Any]
COLUMNS = ("figure", "batch", "step_ms", "samples_per_s", "peak_gb", "plain_by_this")


class Figure(NamedTuple):
    """One thing to measure, and the seconds it may take where no time is left over from others."""

    name: str
    batch: int
    budget_s: float
    measure: Callable[[], Result]


class LeftOutError(Exception):
    """A figure cannot be had here; the text says why."""


class TimeIsUp(BaseException):
    """The time of a figure is over."""


def measure_all(listed: Sequence[Figure], seconds: float) -> list[Result]:
    """Measure the figures in turn and print each; one may use what others have left over, but not the time of later ones."""
    results, deadline_s = list[Result](), time.monotonic() + seconds
    for number, figure in enumerate(listed):
        later_s = sum(later.budget_s for later in listed[number + 1 :])
        found = measured(figure, deadline_s - time.monotonic() - later_s)
        result = {"bench": "gpu", "figure": figure.name, "batch": figure.batch, **found}
        results.append(result | _ratio(results, result))
        print(json.dumps(results[-1]), flush=True)
    return results


def _ratio(earlier: Sequence[Result], result: Result) -> Result:
    """Return how many times as long the first plain figure of the same kind and batch took."""
    plains = [other for other in earlier if other["figure"].startswith("plain") and other["batch"] == result["batch"]]
    for plain, key in product(plains, ("step_ms", "p50_ms")):
        if key in plain and key in result:
            return {"plain_by_this": round(plain[key] / result[key], 2)}
    return {}


def measured(figure: Figure, limit_s: float) -> Result:
    """Return what a figure gives, or why it gives nothing."""
    try:
        with time_limit(limit_s):
            return figure.measure()
    except TimeIsUp:
        return {"left_out": f"not done within {max(limit_s, 0):.0f} s"}
    except LeftOutError as reason:
        return {"left_out": str(reason)}
    except Exception as error:  # the other figures are worth having
        return {"failed": f"{type(error).__name__}: {one_line(error)[:300]}"}
    finally:
        torch.compiler.reset()
        gc.collect()
        with suppress(RuntimeError):  # after some errors, nothing works on the device any more
            torch.cuda.empty_cache()  # does nothing without one


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeIsUp in the block once so many seconds have passed."""

    def stop(_: int, __: FrameType | None) -> NoReturn:
        raise TimeIsUp

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def print_table(results: Sequence[Result]) -> None:
    """Print the figures as a table in Markdown."""
    print(f"\n| {' | '.join(COLUMNS)} | more |\n|{'---|' * (len(COLUMNS) + 1)}")
    for result in results:
        more = ", ".join(f"{key} {value}" for key, value in result.items() if key not in (*COLUMNS, "bench"))
        print(f"| {' | '.join(str(result.get(column, '')) for column in COLUMNS)} | {more} |")
