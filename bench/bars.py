"""Two timed pieces of work in, their ratio against a bar out, one JSON line for each bar."""

import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection


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

    For sides that a process's memory of the ones before would slow or help; they must be importable. The process is a
    daemon, which may have no children (common/storage/worker.py then works in it): all computing of a side is its own.
    """
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, times in zip(sides, taken, strict=True):
            times.append(_fresh(side, warm))
    return [statistics.median(times) for times in taken]


def _fresh(side: Callable[[], object], warm: Callable[[], object]) -> float:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_cpu, args=(side, warm, theirs), daemon=True)
    process.start()
    theirs.close()
    taken: float = ours.recv()
    process.join()
    return taken


def _cpu(side: Callable[[], object], warm: Callable[[], object], connection: Connection) -> None:
    warm()
    started = time.process_time()
    side()
    taken = time.process_time() - started
    in_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert in_children.ru_utime < 0.1, "a child did the work, and only this process is measured"
    connection.send(taken)


def print_bar(bench: str, bar: str, ratio: float, holds: bool) -> None:
    """Print one bar as JSON: what is compared with what, the ratio found, and whether the bar holds."""
    print(json.dumps({"bench": bench, "bar": bar, "ratio": round(ratio, 3), "holds": holds}), flush=True)
