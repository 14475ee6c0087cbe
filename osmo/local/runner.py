"""A plan and a work folder in; every task run as a process in the order of its inputs, and what became of each out.

The work folder holds run.json (the state, after every change), workflow.yaml (what is run), a folder per task with
log.txt, input/N, output and root (the task's own file system), and the results below datasets/ and urls/.
"""

import base64
import logging
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.cli.command import UserError, one_line
from common.storage.files import write_json
from osmo.local.plan import Group, Task, TaskGraph, fill
from osmo.local.processes import GRACE_S, Process, current_environment, stop
from osmo.local.status_table import (
    AGAIN,
    COMPLETED,
    FAILED,
    RUNNING,
    STOPPED,
    TIMED_OUT,
    UPSTREAM,
    WAITING,
    Row,
    StatusTable,
)
from osmo.local.storage import Storage, transfer
from osmo.task.container_paths import CONTAINER_PATHS, moved

STATE, SPEC, LOG = "run.json", "workflow.yaml", "log.txt"
PACKAGES = Path(__file__).parents[2]
TICK_S = 0.1
log = logging.getLogger(__name__)


class TaskResult(NamedTuple):
    """What became of a task."""

    status: str
    exit_code: int | None
    seconds: float
    tries: int
    output: Path
    log: Path


class Result(NamedTuple):
    """What became of a workflow: completed, failed or stopped, and its tasks by name."""

    status: str
    tasks: dict[str, TaskResult]
    work: Path


@dataclass(frozen=True)
class Options:
    """How this machine runs a workflow."""

    workflow_id: str
    environment: Mapping[str, str]  # --set-env: for every task
    jobs: int  # tasks at the same time
    retries: int  # RESCHEDULE starts a group again at most so often
    origin: Mapping[str, Any]  # kept in run.json, so that `restart` needs the folder only


class Runner:
    """Runs the groups of a plan; those that `done` names are completed already."""

    def __init__(self, plan: TaskGraph, work: Path, storage: Storage, options: Options, board: StatusTable) -> None:
        self._plan, self._work, self._storage, self._options, self._board = plan, work, storage, options, board
        self._rows = {task.name: Row(WAITING, None, 0.0, 0, "") for task in plan.tasks}
        self._running: dict[str, dict[str, Process]] = {}  # group -> task -> process
        self._uploaded: dict[tuple[str, str], float] = {}
        together = min(options.jobs, plan.width)
        self._threads: dict[str, str] = {}
        if together > 1 and "OMP_NUM_THREADS" not in os.environ:  # threads of several tasks would wait for each other
            self._threads["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // together))

    def run(self, done: Mapping[str, Row]) -> Result:
        """Run to the end; a signal that raises KeyboardInterrupt stops all tasks and leaves a run that can go on."""
        self._rows |= done
        self._save()
        try:
            while self._step():
                self._board.show(self._rows)
                time.sleep(TICK_S)
        except KeyboardInterrupt:
            self._stop_all()
        self._save()
        self._board.finish(self._rows)
        statuses = {row.status for row in self._rows.values()}
        status = STOPPED if STOPPED in statuses else COMPLETED if statuses == {COMPLETED} else FAILED
        return Result(status, {name: self._result(name) for name in self._rows}, self._work)

    def _step(self) -> bool:
        """Take in what has ended, start what can start; returns whether there is more to come."""
        for group in self._plan.groups:
            if group.name in self._running:
                self._watch(group)
        for group in self._plan.groups:
            if self._status(group) == WAITING:
                needed = [self._status(other) for other in self._plan.groups if other.name in group.needs]
                if any(status in (FAILED, UPSTREAM) for status in needed):
                    self._mark(group, UPSTREAM)
                elif all(status == COMPLETED for status in needed) and self._has_room(group):
                    self._start(group)
        return any(self._status(group) in (RUNNING, WAITING) for group in self._plan.groups)

    def _status(self, group: Group) -> str:
        status = self._rows[group.lead.name].status
        return FAILED if status == TIMED_OUT else status

    def _has_room(self, group: Group) -> bool:
        busy = sum(map(len, self._running.values()))
        return busy == 0 or busy + len(group.tasks) <= self._options.jobs

    def _start(self, group: Group) -> None:
        port = _free_port() if len(group.tasks) > 1 else None
        processes = self._running[group.name] = {}
        for task in group.tasks:
            tries = self._rows[task.name].tries + 1
            self._rows[task.name] = Row(RUNNING, None, 0.0, tries, "")
            try:
                processes[task.name] = self._start_task(task, port)
            except UserError as error:
                with (self._folder(task) / LOG).open("a") as file:
                    file.write(f"error: {error}\n")
                stop(list(processes.values()))
                del self._running[group.name]
                self._mark(group, FAILED)
                break
        self._save()

    def _start_task(self, task: Task, port: int | None) -> Process:
        folder = self._folder(task)
        root, output, inputs = folder / "root", folder / "output", folder / "input"
        # A task alone finds its own files again, as on a disk that stays; a group has only what its urls hold, because
        # its members must go on from the same step.
        for stale in (output, inputs, *([root] if port else [])):
            shutil.rmtree(stale, ignore_errors=True)
        for new in (output, inputs, root / "workspace"):
            new.mkdir(parents=True, exist_ok=True)
        tokens = {"output": str(output), "workflow_id": self._options.workflow_id}
        tokens |= {f"host:{name}": "127.0.0.1" for name in self._rows}
        for number, entry in enumerate(task.inputs):
            container_path = inputs / str(number)
            tokens[f"input:{number}"] = str(container_path)
            if "task" in entry:
                tokens[f"input:{entry['task']}"] = str(container_path)
                container_path.mkdir()
                transfer(self._work / entry["task"] / "output", container_path, entry.get("regex"))
            else:
                self._storage.bring(fill(entry, tokens), container_path)
        placed = {file["path"]: _write(file, root, tokens) for file in task.files}
        words = [placed.get(word, word) for word in fill(task.words, tokens)]
        secrets = credentials(task)
        environment = {
            **current_environment(PACKAGES),
            **self._threads,
            **{variable: moved(path, root) for variable, path in CONTAINER_PATHS.items()},
            **self._options.environment,
            **{key: moved(value, root) for key, value in fill(task.environment, tokens).items()},
            **secrets,
            **({"MASTER_PORT": str(port)} if port else {}),
        }
        return Process(words, environment, root / "workspace", folder / LOG, list(secrets.values()))

    def _watch(self, group: Group) -> None:
        """Take in how far a group's tasks are, and end the group when its fate is known."""
        codes = self._codes(group)
        counts = [task for task in group.tasks if task.lead or not group.ignore_nonlead]
        failed = [t for t in counts if t.name in codes and t.action(codes[t.name]) != "COMPLETE"]
        spent_s = {task.name: self._rows[task.name].seconds for task in group.tasks}
        if failed:
            first = min(failed, key=lambda task: spent_s[task.name])
            wanted = first.action(codes[first.name]) == "RESCHEDULE"
            self._end(group, WAITING if wanted and self._rows[first.name].tries <= self._options.retries else FAILED)
        elif len(codes) == len(group.tasks) or spent_s[group.lead.name] + GRACE_S < max(spent_s.values()):
            self._end(group, COMPLETED)  # all have ended, or the lead has and the others do not follow
        elif max(spent_s.values()) > self._plan.exec_timeout_s:
            self._end(group, TIMED_OUT)

    def _codes(self, group: Group) -> dict[str, int]:
        """The exit codes of a group's tasks that have ended; rows and checkpoints of the others are brought up to date."""
        codes: dict[str, int] = {}
        for task in group.tasks:
            process, row = self._running[group.name][task.name], self._rows[task.name]
            code = process.poll()
            if row.exit_code is None:
                spent_s = time.monotonic() - process.started
                self._rows[task.name] = row._replace(exit_code=code, seconds=spent_s, note=process.last_line)
            if code is None:
                self._upload_checkpoints(task, process.started)
            else:
                codes[task.name] = code
        return codes

    def _end(self, group: Group, status: str) -> None:
        """Take a group's results and end what is left of it; WAITING starts it again."""
        processes = self._running.pop(group.name)
        stop(list(processes.values()))
        for task in group.tasks:
            row, process = self._rows[task.name], processes[task.name]
            self._rows[task.name] = row._replace(status=status, note=process.last_line)
            self._upload_checkpoints(task)
            for entry in task.outputs:  # after a failure too: OSMO uploads what a failing command left
                named = fill(entry, {"workflow_id": self._options.workflow_id})
                self._storage.keep(named, self._folder(task) / "output")
            if status == WAITING:
                self._board.show({**self._rows, task.name: self._rows[task.name]._replace(status=AGAIN)})
        self._save()

    def _upload_checkpoints(self, task: Task, started: float | None = None) -> None:
        """Copy a task's checkpoint folders to their urls under their own names, as OSMO does: all, or those that are due."""
        for checkpoint in task.checkpoints:
            last = self._uploaded.get((task.name, checkpoint.path), started or 0.0)
            if started is not None and time.monotonic() - last < checkpoint.every_s:
                continue
            source = self._folder(task) / "root" / checkpoint.path.lstrip("/")
            self._storage.upload(source, checkpoint.url, checkpoint.regex, link=False, under=f"{source.name}/")
            self._uploaded[task.name, checkpoint.path] = time.monotonic()

    def _stop_all(self) -> None:
        processes = [process for group in self._running.values() for process in group.values()]
        log.info("stopping %d tasks", len(processes))
        stop(processes)
        for group in self._plan.groups:
            if group.name in self._running:
                for task in group.tasks:
                    self._upload_checkpoints(task)
                self._mark(group, STOPPED)
            elif self._status(group) == WAITING:
                self._mark(group, STOPPED)
        self._running.clear()

    def _mark(self, group: Group, status: str) -> None:
        for task in group.tasks:
            self._rows[task.name] = self._rows[task.name]._replace(status=status)
        self._save()

    def _folder(self, task: Task) -> Path:
        folder = self._work / task.name
        folder.mkdir(exist_ok=True)
        return folder

    def _result(self, name: str) -> TaskResult:
        row, folder = self._rows[name], self._work / name
        return TaskResult(row.status, row.exit_code, row.seconds, row.tries, folder / "output", folder / LOG)

    def _save(self) -> None:
        rows = {name: row._asdict() for name, row in self._rows.items()}
        write_json(self._work / STATE, {**self._options.origin, "tasks": rows})


def credentials(task: Task) -> dict[str, str]:
    """Return the variables that a task's credentials fill in, from those of the same name here; UserError when missing."""
    found = {}
    for name, payload in task.credentials.items():
        if not isinstance(payload, Mapping):
            raise UserError(f"task {task.name}: credential {name} is mounted as files, which only the cluster can do")
        for variable in payload:
            if not os.environ.get(variable):
                raise UserError(f"task {task.name} needs the credential {name}: export {variable}=... on this machine")
            found[variable] = os.environ[variable]
    return found


def _write(file: Mapping[str, Any], root: Path, tokens: Mapping[str, str]) -> str:
    path = root / str(file["path"]).lstrip("/")
    text = str(file["contents"])
    is_base64 = str(file.get("base64", "false")).lower() == "true"
    if ".." in path.parts:
        raise UserError(f"file {file['path']} would leave the task's folder; write its path without ..")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(text) if is_base64 else fill(text, tokens).encode())
    except (OSError, ValueError) as error:
        raise UserError(f"file {file['path']} cannot be put into its place: {one_line(error)}") from error
    return str(path)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def tail(path: Path, lines: int) -> Sequence[str]:
    """The last lines of a log."""
    return path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
