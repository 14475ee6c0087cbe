"""A task as a process with a log. Nothing that it has started outlives `stop`."""

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

GRACE_S = 30.0  # what a cluster usually grants between SIGTERM and SIGKILL
MARK = "OSMO_LOCAL_TASK"  # a variable that all descendants of a task inherit, whatever session they are in
MASKED_CHARACTERS = 8  # shorter secrets are not masked, as in OSMO


class Process:
    """A running task. Its output goes to its log file line by line, secrets masked; the log's folder is the task's own."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path, secrets: Sequence[str]
    ) -> None:
        self._secrets = [secret.encode() for secret in secrets if len(secret) >= MASKED_CHARACTERS]
        self._log, self.last_line = log, ""
        self._is_terminating = False
        self.started = time.monotonic()
        self._child = subprocess.Popen(
            words,
            env={**environment, MARK: str(log.parent)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._log_writer = threading.Thread(target=self._write_log, daemon=True)
        self._log_writer.start()

    def poll(self) -> int | None:
        """Return the exit code once the process has ended (128 + the signal's number if one killed it), else None."""
        code = self._child.poll()
        if code is None:
            return None
        if self._log_writer.is_alive():
            self._log_writer.join(0.05)
        if self._log_writer.is_alive() and self._is_terminating and self._has_group():
            return None  # a shell ends at once, while the command that it waited for is still saving
        if self._log_writer.is_alive():  # a process left behind holds the log open; a container would end it too
            self.kill()
        return 128 - code if code < 0 else code

    def terminate(self) -> None:
        """Send SIGTERM to the process and its group."""
        self._is_terminating = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill everything that the task has started."""
        kill_marked(self._log.parent)
        self._child.wait()
        self._log_writer.join()

    def _has_group(self) -> bool:
        try:
            os.killpg(self._child.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _write_log(self) -> None:
        assert self._child.stdout is not None
        with self._log.open("ab") as file, self._child.stdout as lines:
            for raw in lines:
                line = functools.reduce(lambda text, secret: text.replace(secret, b"[MASKED]"), self._secrets, raw)
                file.write(line)
                file.flush()
                self.last_line = line.decode(errors="replace").strip() or self.last_line


def stop(processes: Sequence[Process]) -> None:
    """Send SIGTERM to processes, wait up to GRACE_S for all of them, and kill what is left."""
    for process in processes:
        process.terminate()
    end = time.monotonic() + GRACE_S
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            time.sleep(0.05)
    finally:  # also on a second Ctrl-C
        for process in processes:
            process.kill()


def kill_marked(folder: Path) -> None:
    """Kill every process of the tasks whose folder is `folder` or below it.

    It looks until none is found: a process may be starting others meanwhile.
    """
    mark = f"{MARK}={folder}".encode()
    while pids := [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _is_marked(entry, mark)]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _is_marked(process: Path, mark: bytes) -> bool:
    try:
        variables = (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or belongs to another user
        return False
    return any(text == mark or text.startswith(mark + b"/") for text in variables)


def current_environment(root: Path) -> dict[str, str]:
    """Return the environment that stands for the image: this Python first on PATH, this project on PYTHONPATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    packages = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PATH": path, "PYTHONPATH": packages}
