"""Runs every task of a workflow as a process, in the order of their inputs.

The work folder holds run.json (the state, after every change), workflow.yaml (what is run), a folder per task with
log.txt, input/N, output and root (the task's own file system), and the results below datasets/ and urls/.
"""

import base64
import contextlib
import logging
import os
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from common.cli.command import UserError, one_line
from common.storage.files import write_file
from osmo.local.processes import GRACE_S, Process, current_environment, kill_marked, stop
from osmo.local.status_table import Row, Status, StatusTable
from osmo.local.storage import Storage
from osmo.local.task_graph import File, Group, Task, TaskGraph
from osmo.task.container_paths import CONTAINER_PATHS, moved

STATE, SPEC, LOG = "run.json", "workflow.yaml", "log.txt"
PACKAGES = Path(__file__).parents[2]
TICK_S = 0.1
RETRIES = 2  # how often RESCHEDULE starts a group again
log = logging.getLogger(__name__)


class Result(NamedTuple):
    """How a workflow ended: completed, failed or stopped; its tasks by name, whose folders are in `work`."""

    status: Status
    tasks: dict[str, Row]
    work: Path


class Run(BaseModel, frozen=True):
    """A run of a workflow on this machine, as run.json keeps it: all that `restart` needs."""

    workflow_id: str
    maps: dict[str, Path]  # --map: url or dataset name -> folder
    environment: dict[str, str]  # --set-env: for every task
    tasks: dict[str, Row] = {}


class Runner:
    """Runs the groups of a workflow; tasks that are completed in `run.tasks` are not run again."""

    def __init__(self, graph: TaskGraph, run: Run, work: Path, jobs: int) -> None:
        self._graph, self._settings, self._work, self._jobs = graph, run, work, jobs
        self._storage = Storage(work, run.maps, graph.written_urls)
        self._rows = {task.name: run.tasks.get(task.name, Row()) for task in graph.tasks}
        self._table = StatusTable(run.tasks)
        self._running: dict[str, dict[str, Process]] = {}  # group -> task -> process
        self._uploaded: dict[tuple[str, str], float] = {}
        self._threads: dict[str, str] = {}
        concurrent = min(jobs, graph.width)
        if concurrent > 1 and "OMP_NUM_THREADS" not in os.environ:  # else the threads of all tasks wait for each other
            self._threads["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // concurrent))

    def run(self) -> Result:
        """Run to the end. A signal that raises KeyboardInterrupt stops all tasks; the run can then be resumed."""
        kill_marked(self._work)  # what an earlier runner has left behind that was killed
        self._save()
        try:
            while self._step():
                self._table.show(self._rows)
                time.sleep(TICK_S)
        except KeyboardInterrupt:
            self._stop_all()
        finally:
            kill_marked(self._work)
        self._save()
        self._table.finish(self._rows)
        statuses = {row.status for row in self._rows.values()}
        status = Status.COMPLETED if statuses == {Status.COMPLETED} else Status.FAILED
        return Result(Status.STOPPED if Status.STOPPED in statuses else status, self._rows, self._work)

    def _step(self) -> bool:
        """Start what can start and handle what has ended; returns whether the run goes on."""
        for group in self._graph.groups:
            if self._status(group) == Status.WAITING:
                needed = {self._rows[name].status for name in group.needs}
                if needed & {Status.FAILED, Status.UPSTREAM_FAILED}:
                    self._mark(group, Status.UPSTREAM_FAILED)
                elif needed <= {Status.COMPLETED} and self._has_room(group):
                    self._start(group)
        for group in self._graph.groups:
            if group.name in self._running:
                self._poll(group)
        return any(self._status(group) in (Status.RUNNING, Status.WAITING) for group in self._graph.groups)

    def _status(self, group: Group) -> Status:
        return self._rows[group.lead.name].status

    def _has_room(self, group: Group) -> bool:
        busy = sum(map(len, self._running.values()))
        return busy == 0 or busy + len(group.tasks) <= self._jobs

    def _start(self, group: Group) -> None:
        port = _free_port() if len(group.tasks) > 1 else None
        processes = self._running[group.name] = {}
        for task in group.tasks:
            self._rows[task.name] = Row(Status.RUNNING, tries=self._rows[task.name].tries + 1)
            try:
                processes[task.name] = self._start_task(task, port)
            except (UserError, OSError, ValueError) as error:  # fails its group alone, as in the cluster
                with (self._folder(task) / LOG).open("a") as file:
                    file.write(f"error: task {task.name} cannot be started: {one_line(error)}\n")
                stop(list(processes.values()))
                del self._running[group.name]
                self._mark(group, Status.FAILED)
                break
        self._save()

    def _start_task(self, task: Task, port: int | None) -> Process:
        folder = self._folder(task)
        root, output, inputs = folder / "root", folder / "output", folder / "input"
        # A task alone finds its own files again, as on a disk that stays; a group has only what its urls hold, because
        # its members must resume from the same step.
        for stale in (output, inputs, *([root] if port else [])):
            shutil.rmtree(stale, ignore_errors=True)
        for new in (output, inputs, root / "workspace"):
            new.mkdir(parents=True, exist_ok=True)
        tokens = {"output": str(output)}
        for number, entry in enumerate(task.inputs):
            names = [str(number), entry.task] if entry.task else [str(number)]
            tokens |= {f"input:{name}": str(inputs / str(number)) for name in names}
        task = task.filled(tokens)
        for number, entry in enumerate(task.inputs):
            self._storage.fetch(entry, inputs / str(number))
        written = {file.path: _write(file, root) for file in task.files}
        words = [written.get(word, word) for word in (*task.command, *task.args)]
        secrets = credentials(task)
        environment = {
            **current_environment(PACKAGES),
            **self._threads,
            **{variable: moved(path, root) for variable, path in CONTAINER_PATHS.items()},
            **self._settings.environment,
            **{key: moved(value, root) for key, value in task.environment.items()},
            **secrets,
            **({"MASTER_PORT": str(port)} if port else {}),
        }
        return Process(words, environment, root / "workspace", folder / LOG, list(secrets.values()))

    def _poll(self, group: Group) -> None:
        """Update the rows of a running group, and end it once its result is known."""
        codes = self._exit_codes(group)
        decisive = [task for task in group.tasks if task == group.lead or not group.ignores_nonlead]
        failed = [task for task in decisive if task.name in codes and task.action(codes[task.name]) != "COMPLETE"]
        seconds = {task.name: self._rows[task.name].seconds for task in group.tasks}
        if failed:
            first = min(failed, key=lambda task: seconds[task.name])
            may_retry = self._rows[first.name].tries <= RETRIES
            wants_retry = first.action(codes[first.name]) == "RESCHEDULE"
            self._end(group, Status.WAITING if wants_retry and may_retry else Status.FAILED)
        elif len(codes) == len(group.tasks) or seconds[group.lead.name] + GRACE_S < max(seconds.values()):
            self._end(group, Status.COMPLETED)  # all have ended, or the lead has and the others do not follow

    def _exit_codes(self, group: Group) -> dict[str, int]:
        """Return the exit codes of the tasks that have ended; update the rows and due checkpoints of the others."""
        codes: dict[str, int] = {}
        for task in group.tasks:
            process, row = self._running[group.name][task.name], self._rows[task.name]
            code = process.poll()
            if row.exit_code is None:
                elapsed_s = time.monotonic() - process.started
                self._rows[task.name] = replace(row, exit_code=code, seconds=elapsed_s, note=process.last_line)
            if code is None:
                self._upload_checkpoints(task, process.started)
            else:
                codes[task.name] = code
        return codes

    def _end(self, group: Group, status: Status) -> None:
        """Stop what is left of a group and keep its results; WAITING starts it again."""
        processes = self._running.pop(group.name)
        stop(list(processes.values()))
        for task in group.tasks:
            row, process = self._rows[task.name], processes[task.name]
            code = process.poll() if row.exit_code is None else row.exit_code
            self._rows[task.name] = replace(row, status=status, exit_code=code, note=process.last_line)
            self._upload_checkpoints(task)
            for entry in task.outputs:  # after a failure too: OSMO uploads what a failing command left
                self._storage.keep(entry, self._folder(task) / "output")
        self._save()

    def _upload_checkpoints(self, task: Task, started: float | None = None) -> None:
        """Copy the checkpoint folders of a task to their urls under their own names, as OSMO does: all, or those due."""
        for checkpoint in task.checkpoints:
            last = self._uploaded.get((task.name, checkpoint.path), started or 0.0)
            if started is not None and time.monotonic() - last < checkpoint.frequency:
                continue
            source = self._folder(task) / "root" / checkpoint.path.lstrip("/")
            self._storage.upload(source, checkpoint.url, checkpoint.regex, link=False, prefix=f"{source.name}/")
            self._uploaded[task.name, checkpoint.path] = time.monotonic()

    def _stop_all(self) -> None:
        processes = [process for group in self._running.values() for process in group.values()]
        with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C only ends the wait
            log.info("stopping %d tasks", len(processes))
            stop(processes)
        for group in self._graph.groups:
            if group.name in self._running:
                for task in group.tasks:
                    self._upload_checkpoints(task)
            if group.name in self._running or self._status(group) == Status.WAITING:
                self._mark(group, Status.STOPPED)
        self._running.clear()

    def _mark(self, group: Group, status: Status) -> None:
        for task in group.tasks:
            self._rows[task.name] = replace(self._rows[task.name], status=status)
        self._save()

    def _folder(self, task: Task) -> Path:
        folder = self._work / task.name
        folder.mkdir(exist_ok=True)
        return folder

    def _save(self) -> None:
        run = self._settings.model_copy(update={"tasks": self._rows})
        write_file(self._work / STATE, run.model_dump_json(indent=2).encode())


def credentials(task: Task) -> dict[str, str]:
    """Return the variables of a task's credentials, from those of the same name here; UserError when one is missing."""
    found = {}
    for name, payload in task.credentials.items():
        if isinstance(payload, str):
            raise UserError(f"task {task.name}: credential {name} is mounted as files, which only the cluster can do")
        for variable in payload:
            if not os.environ.get(variable):
                raise UserError(f"task {task.name} needs the credential {name}: export {variable}=... on this machine")
            found[variable] = os.environ[variable]
    return found


def _write(file: File, root: Path) -> str:
    """Write a file of the container below `root` and return its path."""
    path = root / file.path.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(file.contents) if file.base64 else file.contents.encode())
    return str(path)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
