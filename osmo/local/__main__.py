"""`python -m osmo.local run|check|restart`: an OSMO workflow file in; its tasks run on this machine, or what is wrong with it.

The file is the one that `osmo workflow submit` takes. `image` becomes this Python; inputs and outputs become folders.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from common.cli.command import EXIT_TRANSIENT, Parser, UserError, one_line
from common.cli.command import run as leave_with
from common.storage.files import locked, read_json, write_file
from osmo.check.commands import check_commands
from osmo.check.spec import RELEASES, Finding, check_releases
from osmo.check.template import TemplateError, all_tasks, parse_set, read, submitted
from osmo.local.plan import make_plan
from osmo.local.runner import SPEC, STATE, Options, Result, Runner, credentials, tail
from osmo.local.status_table import COMPLETED, FAILED, STOPPED, TIMED_OUT, Row, StatusTable
from osmo.local.storage import Storage

RUNS = Path("osmo-runs")
TAIL_LINES = 20


def run(
    file: Path,
    values: Mapping[str, Any] | None = None,
    work: Path | None = None,
    maps: Mapping[str, Path] | None = None,
    environment: Mapping[str, str] | None = None,
    jobs: int | None = None,
    retries: int = 2,
) -> Result:
    """Run a workflow file as `osmo workflow submit FILE --set values` would, on this machine.

    `maps` gives urls and dataset names their folders. Raises UserError when the file is wrong or an input is not here.
    """
    maps = {key: path.resolve() for key, path in (maps or {}).items()}
    document = _submitted(file, dict(values or {}))
    name = document["workflow"]["name"]
    work = (work or _next_folder(name)).resolve()
    if work.exists() and any(work.iterdir()):
        raise UserError(f"{work} holds something; python -m osmo.local restart {work} goes on with a run that is there")
    plan = make_plan(document)
    storage = Storage(work, maps, plan.written_urls, file.parent)
    for planned in plan.tasks:
        credentials(planned)
        for entry in planned.inputs:
            storage.require(entry)
    work.mkdir(parents=True, exist_ok=True)
    write_file(work / SPEC, yaml.safe_dump(document, sort_keys=False).encode())
    origin = {
        "file": str(file.resolve()),
        "workflow_id": f"{name}-1",
        "maps": {key: str(path) for key, path in maps.items()},
        "environment": dict(environment or {}),
        "retries": retries,
    }
    return _run(work, origin, {}, jobs)


def _submitted(file: Path, values: Mapping[str, Any]) -> Any:
    """The document that OSMO would run; raises UserError when no release takes the file."""
    findings = _any_release(file, values)
    if findings:
        raise UserError(f"{_show(file, findings[0])} ({len(findings)} in all: python -m osmo.local check {file})")
    document = read(file).render(values).document
    for task in all_tasks(document):
        for entry in task.get("inputs", ()):
            if "localpath" in entry.get("dataset", {}):
                entry["dataset"]["localpath"] = str((file.parent / entry["dataset"]["localpath"]).resolve())
    return submitted(document, file.parent)


def restart(work: Path, jobs: int | None = None) -> Result:
    """Go on with a run: tasks that completed are not run again, the others start anew on what is in their folders."""
    work = work.resolve()
    state = read_json(work / STATE)
    rows = {name: Row(**row) for name, row in state.pop("tasks").items()}
    name, _, number = state["workflow_id"].rpartition("-")
    state["workflow_id"] = f"{name}-{int(number) + 1}"  # a restart is a new workflow, as in the cluster
    return _run(work, state, {name: row for name, row in rows.items() if row.status == COMPLETED}, jobs)


def _run(work: Path, origin: Mapping[str, Any], done: Mapping[str, Row], jobs: int | None) -> Result:
    plan = make_plan(yaml.safe_load((work / SPEC).read_text()))
    # A group runs as a whole or not at all.
    whole = {task.name for group in plan.groups if all(t.name in done for t in group.tasks) for task in group.tasks}
    maps = {key: Path(path) for key, path in origin["maps"].items()}
    storage = Storage(work, maps, plan.written_urls, Path(origin["file"]).parent)
    options = Options(
        origin["workflow_id"], origin["environment"], jobs or os.cpu_count() or 1, origin["retries"], origin
    )
    busy = f"{work} is being run by another process; wait for it or stop it"
    with locked(work, busy), _sigterm_as_interrupt():
        kept = {name: row for name, row in done.items() if name in whole}
        return Runner(plan, work, storage, options, StatusTable(kept)).run(kept)


def main(argv: Sequence[str] | None = None) -> int:
    """Check, run or restart; returns 2 for a file that no release takes, else how the tasks ended."""
    flags = _parser().parse_args(argv)
    try:
        if flags.command == "check":
            return _check(flags.files, flags.release, parse_set(flags.set, flags.set_string))
        if flags.command == "restart":
            return _report(restart(flags.work, flags.jobs))
        values = parse_set(flags.set, flags.set_string)
        environment = dict(_pair(text, "--set-env") for text in flags.set_env)
        maps = {key: Path(folder) for key, folder in (_pair(text, "--map") for text in flags.map)}
        return _report(run(flags.file, values, flags.work, maps, environment, flags.jobs, flags.retries))
    except TemplateError as error:
        raise UserError(one_line(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python -m osmo.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="what OSMO would refuse in workflow files, or in commands of texts")
    checking.add_argument("files", nargs="+", type=Path, metavar="FILE")
    checking.add_argument("--release", choices=RELEASES, help="of OSMO; default: all, and which of them take the file")
    running = commands.add_parser("run", help="run a workflow on this machine")
    running.add_argument("file", type=Path, metavar="FILE")
    running.add_argument("--work", type=Path, help=f"a new folder for the run (default: {RUNS}/NAME-N)")
    running.add_argument(
        "--map", action="extend", nargs="+", default=[], metavar="URL=FOLDER",
        help="where a url such as azure://ACCOUNT/CONTAINER, or a dataset's name, lies on this machine",
    )  # fmt: skip
    running.add_argument("--set-env", action="extend", nargs="+", default=[], metavar="K=V", help="for every task")
    running.add_argument("--retries", type=int, default=2, help="times RESCHEDULE starts a group again (2)")
    again = commands.add_parser("restart", help="go on with a run: what completed is not run again")
    again.add_argument("work", type=Path, metavar="FOLDER")
    for command in (running, again):
        command.add_argument("--jobs", type=int, help="tasks at the same time (default: as many as cores)")
    for command in (running, checking):
        for flag in ("--set", "--set-string"):
            command.add_argument(flag, action="extend", nargs="+", default=[], metavar="K=V", help="a default-value")
    return parser


def _pair(text: str, flag: str) -> tuple[str, str]:
    key, equals, value = text.rpartition("=") if flag == "--map" else text.partition("=")
    if not equals or not key:
        raise UserError(f"{flag} {text}: expected two parts with = between them")
    return key, value


def _check(files: Sequence[Path], release: str | None, values: Mapping[str, Any]) -> int:
    wrong = 0
    for file in files:
        releases = (release,) if release else RELEASES
        found = _findings(file, releases, values)
        for finding in sorted({finding for findings in found.values() for finding in findings}):
            refusing = [number for number in releases if finding in found[number]]
            print(_show(file, finding) + (f" [{', '.join(refusing)}]" if len(refusing) < len(releases) else ""))
        fits = [number for number in releases if not found[number]]
        print(f"{file}: " + (f"fits OSMO {', '.join(fits)}" if fits else f"OSMO {', '.join(releases)} refuses it"))
        wrong += not fits
    return 2 if wrong else 0


def _findings(file: Path, releases: Sequence[str], values: Mapping[str, Any]) -> dict[str, list[Finding]]:
    """What is wrong with a workflow file and the commands in its comments, or with the commands of another text."""
    is_workflow = file.suffix in (".yaml", ".yml")
    found = check_releases(file, releases, values) if is_workflow else {release: [] for release in releases}
    return {release: sorted({*found[release], *check_commands(file, release)}) for release in releases}


def _any_release(file: Path, values: Mapping[str, Any]) -> list[Finding]:
    """Nothing when some release takes the file, else what the latest that has datasets says."""
    with_datasets, without = check_releases(file, ("6.3", "6.4"), values).values()
    return with_datasets if without else []


def _show(file: Path, finding: Finding) -> str:
    return f"{file}:{finding.line}: {finding.message}"


def _report(result: Result) -> int:
    """Show the end of the logs of what failed, and return the exit code that tells why."""
    for name, task in result.tasks.items():
        if task.status in (FAILED, TIMED_OUT):
            print(f"\n{name} {task.status} with exit code {task.exit_code}; the end of {task.log}:", file=sys.stderr)
            for line in tail(task.log, TAIL_LINES):
                print(f"  {line}", file=sys.stderr)
    print(f"workflow {result.status}: {result.work}")
    if result.status != COMPLETED:
        print(f"go on with: python -m osmo.local restart {result.work}", file=sys.stderr)
    codes = {task.exit_code for task in result.tasks.values() if task.status == FAILED}
    if result.status == STOPPED:
        return 130
    if result.status == COMPLETED:
        return 0
    return EXIT_TRANSIENT if codes == {EXIT_TRANSIENT} else 1 if 1 in codes else 2


def _next_folder(name: str) -> Path:
    numbers = [
        int(path.name.rpartition("-")[2]) for path in RUNS.glob(f"{name}-*") if path.name[len(name) + 1 :].isdecimal()
    ]
    return RUNS / f"{name}-{max(numbers, default=0) + 1}"


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only the main thread may; the caller's is another
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


__all__ = ["Result", "restart", "run"]

if __name__ == "__main__":
    leave_with(main)
