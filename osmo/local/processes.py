"""A task's words and environment in; its process, its log and its exit code out. Nothing of it outlives `stop`."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.cli.command import UserError, one_line

GRACE_S = 30.0  # what a cluster usually grants between SIGTERM and SIGKILL
MARK = "OSMO_LOCAL_TASK"  # in the environment of a task and of all that it starts, whatever session that is in
MASKED_CHARACTERS = 8  # shorter secrets are not masked, as in OSMO


class Process:
    """A running task. Its output goes to its log file line by line, secrets masked; the log's folder is the task's own."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path, secrets: Sequence[str]
    ) -> None:
        self._mark = str(log.parent)
        self._sweep()  # what an earlier runner left behind when it was killed
        self._secrets = [secret.encode() for secret in secrets if len(secret) >= MASKED_CHARACTERS]
        self.log, self.last_line = log, ""
        self._told_to_end = False
        self.started = time.monotonic()
        try:
            self._child = subprocess.Popen(
                words,
                env={**environment, MARK: self._mark},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.pid = self._child.pid
            self._pump = threading.Thread(target=self._write_log, daemon=True)
            self._pump.start()
        except (OSError, ValueError) as error:  # in a container, too, such a task fails and nothing else does
            raise UserError(f"{words[0]!r} cannot be started: {one_line(error)}") from error
        except BaseException:  # Ctrl-C after the task began and before anybody can stop it by name
            self._sweep()
            raise

    def poll(self) -> int | None:
        """Return the exit code once the process has ended (128 + the signal's number if one killed it), else None."""
        code = self._child.poll()
        if code is None:
            return None
        if self._pump.is_alive():
            self._pump.join(0.05)
        if self._pump.is_alive() and self._told_to_end and self._has_group():
            return None  # a shell ends at once, while what it waited for is saving
        if self._pump.is_alive():  # something it left running holds the log open; a container would end it too
            self.kill()
        return 128 - code if code < 0 else code

    def terminate(self) -> None:
        """Ask the process and its group to end."""
        self._told_to_end = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End everything that the task started."""
        self._sweep()
        self._child.wait()
        self._pump.join()

    def _has_group(self) -> bool:
        try:
            os.killpg(self._child.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _sweep(self) -> None:
        """Kill all that carries the task's mark, until a look at all processes finds none: it may be starting others."""
        while pids := [int(entry.name) for entry in Path("/proc").iterdir() if self._is_ours(entry)]:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def _is_ours(self, entry: Path) -> bool:
        try:
            mark = f"{MARK}={self._mark}".encode()
            return entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # gone already, or not ours to look at
            return False

    def _write_log(self) -> None:
        assert self._child.stdout is not None
        with self.log.open("ab") as file, self._child.stdout as lines:
            for raw in lines:
                line = functools.reduce(lambda text, secret: text.replace(secret, b"[MASKED]"), self._secrets, raw)
                file.write(line)
                file.flush()
                self.last_line = line.decode(errors="replace").strip() or self.last_line


def stop(processes: Sequence[Process], grace_s: float = GRACE_S) -> None:
    """Ask processes to end, wait for them together, and kill what is left."""
    for process in processes:
        process.terminate()
    end = time.monotonic() + grace_s
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            time.sleep(0.05)
    finally:  # also when somebody presses Ctrl-C a second time
        for process in processes:
            process.kill()


def current_environment(root: Path) -> dict[str, str]:
    """The environment of this machine that stands for the image: this Python first on the PATH, our packages on its path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    packages = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PATH": path, "PYTHONPATH": packages}
