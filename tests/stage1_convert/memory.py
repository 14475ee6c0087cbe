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


def memory_of(call: Callable[[], object]) -> tuple[int, int]:
    """Return the bytes that the process had before a call, and at its worst moment."""
    before = _start()
    call()
    return before, _status("VmHWM")


def _start() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10
