"""Two timed pieces of work in, their ratio against a bar out, one JSON line for each bar."""

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor


def seconds(sides: Sequence[Callable[[], object]], rounds: int = 5) -> list[float]:
    """Return the median seconds of each side; they take turns, so that a busy machine slows them alike."""
    return _medians(sides, rounds, time.perf_counter)


def cpu_seconds(sides: Sequence[Callable[[], object]], rounds: int = 5) -> list[float]:
    """Return the median seconds of computing of each side, all threads of this process together: for work of one
    process that waits for nothing, however busy the machine is.
    """
    return _medians(sides, rounds, time.process_time)


def _medians(sides: Sequence[Callable[[], object]], rounds: int, clock: Callable[[], float]) -> list[float]:
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, times in zip(sides, taken, strict=True):
            started = clock()
            side()
            times.append(clock() - started)
    return [statistics.median(times) for times in taken]


def fresh_cpu_seconds(
    sides: Sequence[Callable[[], object]], rounds: int = 5, warm: Callable[[], object] = int
) -> list[float]:
    """Return what `cpu_seconds` does, each time in a new process, whose start and `warm` do not count.

    For sides that a process's memory of the ones before would slow or help; they must be importable.
    """
    taken: list[list[float]] = [[] for _ in sides]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for _ in range(rounds):
            for side, times in zip(sides, taken, strict=True):
                times.append(pool.submit(_cpu, side, warm).result())
    return [statistics.median(times) for times in taken]


def _cpu(side: Callable[[], object], warm: Callable[[], object]) -> float:
    warm()
    started = time.process_time()
    side()
    return time.process_time() - started


def print_bar(bench: str, bar: str, ratio: float, holds: bool) -> None:
    """Print one bar as JSON: what is compared with what, the ratio found, and whether the bar holds."""
    print(json.dumps({"bench": bench, "bar": bar, "ratio": round(ratio, 3), "holds": holds}), flush=True)
