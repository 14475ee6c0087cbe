"""How much memory a piece of code took at its worst, as the kernel saw it (proc(5): clear_refs, VmHWM)."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_most(limit_bytes: int) -> Iterator[None]:
    """Fail when the process grows by more than this inside the block, also when that raises."""
    before = _start()
    try:
        yield
    finally:
        grown = _status("VmHWM") - before
        assert grown <= limit_bytes, f"grew by {grown >> 20} MB, at most {limit_bytes >> 20} MB are expected"


def peak_bytes(call: Callable[[], object]) -> int:
    """Return how much memory the process had at the worst moment of a call."""
    _start()
    call()
    return _status("VmHWM")


def _start() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10
