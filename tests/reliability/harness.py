"""Fault injection: commands forked from a warm process and killed at any moment, and the number of repetitions.

SOAK=1 in the environment asks for the long form of every promise.
"""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.storage.files import sha256
from tests.conftest import ROOT

SOAK = os.environ.get("SOAK", "") not in ("", "0")
TIMEOUT_S = 300.0


def loops(short: int, soak: int) -> int:
    """Return the number of repetitions: `short` in the test suite, `soak` in `make soak`."""
    return soak if SOAK else short


class Ended(NamedTuple):
    """The result of a command: exit code (minus the number of the signal that killed it), output and time."""

    code: int
    output: str
    seconds: float

    @property
    def changes(self) -> int:
        """Number of its changes to the file system."""
        return int(self.output.rsplit("changes=", 1)[1])


class Warm:
    """A process that has imported the stages and forks commands, so that none waits for imports."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.reliability.warm"]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MIMALLOC_ARENA_EAGER_COMMIT": "0",
        }
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, log: Path, module: str, *args: object, die_at: int = 0, **environment: str) -> "Command":
        """Fork `python -m module args` in a process group of its own; its output goes to `log`.

        With `die_at` = n the whole group is killed right before its n-th change to the file system. With
        `die_at` = -n the command is killed within the first large write after its n-th change.
        """
        order = {
            "module": module,
            "args": list(map(str, args)),
            "log": str(log),
            "die_at": die_at,
            "environment": environment,
        }
        return Command(int(self.ask(order)["pid"]), log, self)

    def run(self, log: Path, module: str, *args: object, die_at: int = 0, **environment: str) -> Ended:
        """Run a command to its end."""
        return self.start(log, module, *args, die_at=die_at, **environment).join()

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Exchange a line with the process."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


class Command:
    """A running command."""

    def __init__(self, pid: int, log: Path, warm: Warm) -> None:
        self.pid, self.log, self._warm, self._started = pid, log, warm, time.monotonic()
        self._ended = os.pidfd_open(pid)

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end, at most so long."""
        return bool(select.select([self._ended], [], [], seconds)[0])

    def wait_for(self, sign: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
        """Wait until `sign` is true; a command that ends before, or hangs, fails the test."""
        deadline_s = time.monotonic() + timeout_s
        while not sign():
            in_time = not self.ends_within(0.005) and time.monotonic() < deadline_s
            assert in_time, f"the sign never came:\n{self.log.read_text(errors='replace')}"

    def signal(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the whole process group."""
        os.killpg(self.pid, number)

    def join(self, timeout_s: float = TIMEOUT_S) -> Ended:
        """Wait for the end; a command that hangs is killed and fails the test."""
        hangs = not self.ends_within(timeout_s)
        if hangs:
            self.signal()
        os.close(self._ended)
        ended, seconds = self._warm.ask({"wait": self.pid}), time.monotonic() - self._started
        output = self.log.read_text(errors="replace")
        assert not hangs, f"no end within {timeout_s:g} s:\n{output}"
        return Ended(ended["code"], output, seconds)


def kill_and_repeat(start: Callable[[int], Command], whole: Ended, kills: int, again: Callable[[], None]) -> int:
    """Kill a command `kills` times, half of them at random moments, half at random changes to the file system.

    `start(die_at)` starts it, and `whole` is the result of an undisturbed run. Every fourth time it may finish: `again` runs
    it, checks the result and removes it. Returns how many kills hit a running command.
    """
    chance, hits = random.Random(0), 0
    for number in range(kills):
        if number % 2:
            ended = start(chance.randint(1, whole.changes)).join()
        else:
            command = start(0)
            if not command.ends_within(chance.uniform(0, whole.seconds)):
                command.signal()
            ended = command.join()
        assert ended.code in (0, -signal.SIGKILL), ended.output
        hits += ended.code != 0
        if ended.code == 0 or number % 4 == 3:
            again()
    again()
    return hits


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, hidden ones too, by relative name."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def leftovers(folder: Path) -> Sequence[str]:
    """Return the temporary files and folders below a folder."""
    return [str(path) for path in folder.rglob(".tmp-*")]
