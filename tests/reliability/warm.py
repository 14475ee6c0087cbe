"""Forks commands on request: imports everything once and starts no thread, so that it may fork."""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing import util
from typing import Any

IMPORTS = (
    "stage1_convert.pipeline.convert",
    "stage2_train.train",
    "stage3_eval.evaluate",
    "stage3_eval.inputs",
    "torch.distributed",  # this and what follows are imported by the stages only when they are needed
    "torch._inductor",
    "matplotlib.backends.backend_agg",
)
# Audit events that change names or content; a kill happens right before one. Opening a file for writing counts, too.
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
LARGE_BYTES = 2_000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)


def main() -> None:
    """Answer a request per line until stdin ends."""
    _end_with_parent()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # init may take a second to reap what a command leaves
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as a command has it, before `run` takes it over
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()  # garbage collection in a child would copy every page that it visits
    for line in sys.stdin:
        order = json.loads(line)
        answer = _wait(order["wait"]) if "wait" in order else {"pid": _fork(order)}
        print(json.dumps(answer), flush=True)


def _end_with_parent() -> None:
    """Die with the test suite, so that no training is left running for hours."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _fork(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)  # here as well, because the caller may signal the group at once
        return pid
    code, changes = 1, _Changes(0)
    try:
        _end_with_parent()
        os.setpgid(0, 0)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(order["environment"])
        util.spawnv_passfds = _start_python
        changes = _Changes(order["die_at"])
        sys.addaudithook(changes.count)
        sys.argv = [order["module"], *order["args"]]
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        print(f"changes={changes.done}", flush=True)
        sys.stderr.flush()
        os._exit(code)


def _start_python(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
    """Start the fork server of a command's workers by forking, because a new process would import everything again."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 (the list must be complete before one is closed)
            if fd > 2 and fd not in passfds:
                with contextlib.suppress(OSError):
                    os.close(fd)
        exec(args[-1])  # python -c CODE
    finally:
        os._exit(0)


def _wait(pid: int) -> dict[str, int]:
    """Wait for the end of a command and, at most 20 s, of all other processes of its group."""
    _, status, used = os.wait4(pid, 0)
    end_s = time.monotonic() + 20
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end_s:
            if os.waitpid(-pid, os.WNOHANG) == (0, 0):
                time.sleep(0.002)
    return {"code": os.waitstatus_to_exitcode(status), "peak_bytes": used.ru_maxrss * 1024}


class _Changes:
    """Counts this process's changes to the file system, and kills its group before the one that is its last.

    With `last` below zero, the kernel kills the process within its next large write instead.
    """

    def __init__(self, last: int) -> None:
        self.done, self._last, self._pid = 0, last, os.getpid()

    def count(self, event: str, args: tuple[Any, ...]) -> None:
        """Take an audit event of Python's."""
        if os.getpid() != self._pid:  # a worker
            return
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in CHANGES:
            self.done += 1
            if self.done == self._last:
                os.killpg(0, signal.SIGKILL)
        if self.done and self.done == -self._last:
            self._last = 0
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # setrlimit(2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE_BYTES, LARGE_BYTES))


if __name__ == "__main__":
    main()
