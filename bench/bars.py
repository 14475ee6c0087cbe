"""Times two pieces of work against each other, and prints the ratio against its bar as one JSON line."""

import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path


def seconds(sides: Sequence[Callable[[], object]], rounds: int = 5) -> list[float]:
    """Return the median seconds of each side. The sides take turns, so that other load slows them equally."""
    return _medians(sides, rounds, lambda side: _timed(side, time.perf_counter))


def cpu_seconds(sides: Sequence[Callable[[], object]], rounds: int = 5) -> list[float]:
    """Return the median CPU seconds of each side, over all threads of this process: independent of other load, for work
    of one process that does not wait.
    """
    return _medians(sides, rounds, lambda side: _timed(side, time.process_time))


def fresh_cpu_seconds(
    sides: Sequence[Callable[[], object]], rounds: int = 5, warm: Callable[[], object] = int
) -> list[float]:
    """Return what `cpu_seconds` does, with each call in a new process, whose start and `warm` do not count.

    For sides that are affected by earlier calls in the same process; they must be importable. The process is a daemon,
    which may have no children (common/storage/worker.py then works within it), so that all CPU time is its own.
    """
    return _medians(sides, rounds, lambda side: _time_in_new_process(side, warm))


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU computes in bfloat16 itself: emulated, it takes many times as long as float32."""
    return cpuinfo.exists() and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpuinfo.read_text().split())


def _medians(
    sides: Sequence[Callable[[], object]], rounds: int, measure: Callable[[Callable[[], object]], float]
) -> list[float]:
    times = [[measure(side) for side in sides] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def _timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return clock() - started


def _time_in_new_process(side: Callable[[], object], warm: Callable[[], object]) -> float:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_cpu_seconds, args=(side, warm, sender), daemon=True)
    process.start()
    sender.close()
    cpu_s: float = receiver.recv()
    process.join()
    return cpu_s


def _send_cpu_seconds(side: Callable[[], object], warm: Callable[[], object], connection: Connection) -> None:
    warm()
    cpu_s = _timed(side, time.process_time)
    in_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert in_children.ru_utime < 0.1, "a child did the work, and only this process is measured"
    connection.send(cpu_s)


def print_bar(bench: str, bar: str, ratio: float, holds: bool) -> None:
    """Print one bar as JSON: what is compared, the measured ratio, and whether the bar holds."""
    print(json.dumps({"bench": bench, "bar": bar, "ratio": round(ratio, 3), "holds": holds}), flush=True)
