"""Two timed pieces of work in, their ratio against a bar out, one JSON line for each bar."""

import json
import statistics
import time
from collections.abc import Callable, Sequence


def seconds(sides: Sequence[Callable[[], object]], rounds: int = 5) -> list[float]:
    """Return the median seconds of each side; they take turns, so that a busy machine slows them alike."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, times in zip(sides, taken, strict=True):
            started = time.perf_counter()
            side()
            times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in taken]


def print_bar(bench: str, bar: str, ratio: float, holds: bool) -> None:
    """Print one bar as JSON: what is compared with what, the ratio found, and whether the bar holds."""
    print(json.dumps({"bench": bench, "bar": bar, "ratio": round(ratio, 3), "holds": holds}), flush=True)
