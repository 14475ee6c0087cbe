"""A call that crashes, hangs, runs out of memory or is killed affects only its own result."""

import errno
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from common.cli.command import UserError
from common.storage.worker import Limits, map_isolated
from tests.conftest import ROOT

pytestmark = pytest.mark.integration

MEMORY_BYTES = 256 << 20
QUICK, SHORT = Limits(MEMORY_BYTES, 60), Limits(MEMORY_BYTES, 0.5)
STARTS_AND_IS_KILLED = """
import os
from common.storage.worker import Limits, map_isolated
from tests.common.storage.test_worker import misbehave

if __name__ == "__main__":
    results = map_isolated(misbehave, ["pid", "hang"], 2, lambda item: Limits(1 << 30, 600))
    print(next(results), flush=True)
    next(results)
"""

IS_INTERRUPTED = """
import os
import signal
import threading
from multiprocessing import forkserver

from common.cli.command import run
from common.storage.worker import Limits, map_isolated
from tests.common.storage.test_worker import misbehave

connect = forkserver.connect_to_new_process


def interrupted(fds):
    ends = connect(fds)
    os.kill(os.getpid(), signal.SIGINT)
    while signal.SIGINT in signal.sigpending():
        pass
    return ends


if __name__ == "__main__":
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # the signal is given to any thread that takes it
    forkserver.connect_to_new_process = interrupted
    run(lambda _: len(list(map_isolated(misbehave, ["hang"], 1, lambda item: Limits(1 << 30, 60)))))
"""


def misbehave(how: str) -> object:
    """Do in a worker what damaged data makes libraries do."""
    if how == "numpy":
        return np.ones(2 * MEMORY_BYTES, np.uint8).sum()
    if how == "arrow":
        return pa.allocate_buffer(2 * MEMORY_BYTES).size
    if how == "hang":
        while True:
            pass
    if how.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[how])
    if how == "refuse":
        raise UserError("topic /x is odd")
    if how == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")
    if how == "bug":
        raise KeyError("ours")
    return os.getpid() if how == "pid" else how


def results(*hows: str, workers: int = 2) -> list[object]:
    return list(map_isolated(misbehave, hows, workers, lambda how: SHORT if how == "hang" else QUICK))


def test_results_come_in_the_order_of_the_items() -> None:
    items = [str(number) for number in range(50)]
    assert results(*items, workers=3) == items


def test_items_are_taken_when_they_are_needed() -> None:
    taken: list[str] = []

    def items() -> Iterator[str]:
        for number in range(20):
            taken.append(str(number))
            yield taken[-1]

    running = map_isolated(misbehave, items(), 2, lambda how: QUICK)
    assert next(running) == "0"
    assert len(taken) <= 1 + 2 + 1
    running.close()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("numpy", "more than 268,435,456 bytes of memory"),
        ("arrow", "more than 268,435,456 bytes of memory"),
        ("hang", "took longer than 0.5 s"),
        ("SIGSEGV", "died (SIGSEGV)"),
        ("SIGKILL", "was killed, probably for lack of memory"),
        ("refuse", "topic /x is odd"),
    ],
)
def test_a_failing_call_affects_only_its_own_result(how: str, words: str) -> None:
    before, failed, after = results("before", how, "after", workers=1)
    assert (before, after) == ("before", "after")
    assert isinstance(failed, UserError)
    assert re.search(re.escape(words), str(failed))


def test_a_full_disk_is_raised() -> None:
    with pytest.raises(OSError, match="No space left") as raised:
        results("full")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, "/data/x")


def test_a_bug_is_raised_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"test_worker\.py.*KeyError: 'ours'"):
        try:
            results("bug")
        except RuntimeError as error:
            raise RuntimeError(str(error).replace("\n", " ")) from error


def test_closing_the_results_ends_every_process() -> None:
    running = map_isolated(misbehave, ["pid", "hang"], 2, lambda how: QUICK)
    worker = next(running)
    running.close()
    assert not Path(f"/proc/{worker}").exists()


def test_workers_exit_when_their_parent_is_killed() -> None:
    command = [sys.executable, "-c", STARTS_AND_IS_KILLED]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        worker = int(parent.stdout.readline())
        watch = os.pidfd_open(worker)
        parent.kill()
        ended, _, _ = select.select([watch], [], [], 30)
        os.close(watch)
    assert ended, "the worker outlived its parent by 30 s"


def test_ctrl_c_waits_until_a_worker_has_started() -> None:
    """A worker that has received half of its arguments would print a traceback."""
    command = [sys.executable, "-c", IS_INTERRUPTED]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (130, "stopped; run the same command again to continue\n")
