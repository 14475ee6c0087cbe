"""Checks an OSMO workflow file, or runs its tasks on this machine: `python -m osmo.local run|check|restart`.

The file is the one that `osmo workflow submit` takes. `image` becomes this Python; inputs and outputs become folders.
"""

import argparse
import itertools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from common.cli.command import EXIT_INTERRUPTED, EXIT_TRANSIENT, Parser, UserError, one_line
from common.cli.command import run as run_command
from common.cli.validation import validate
from common.storage.files import locked, read_json, write_file
from osmo.check.spec import RELEASES, check_releases, refusals, require_accepted
from osmo.check.template import TemplateError, all_tasks, parse_set, read, submitted
from osmo.local.runner import LOG, SPEC, STATE, Result, Run, Runner, credentials
from osmo.local.status_table import Status
from osmo.local.storage import Storage
from osmo.local.task_graph import read_graph
from osmo.site import read_site, with_site

RUNS = Path("osmo-runs")
TAIL_LINES = 20


def run(
    file: Path,
    values: Mapping[str, Any] | None = None,
    work: Path | None = None,
    maps: Mapping[str, Path] | None = None,
    environment: Mapping[str, str] | None = None,
    jobs: int | None = None,
) -> Result:
    """Run a workflow file on this machine as `osmo workflow submit FILE --set values` would in the cluster.

    `maps` gives urls and dataset names their folders. Raises UserError when the file is wrong or an input is not here.
    """
    document = _rendered_twice(file, dict(values or {}))
    name = document["workflow"]["name"]
    work = (work or _next_folder(name)).resolve()
    if work.exists() and any(work.iterdir()):
        raise UserError(f"{work} is not empty; python -m osmo.local restart {work} resumes the run that is there")
    folders = {key: path.resolve() for key, path in (maps or {}).items()}
    settings = Run(
        workflow_id=_unused_id(document, work, folders, 1), maps=folders, environment=dict(environment or {})
    )
    graph = read_graph(document, settings.workflow_id)
    storage = Storage(work, settings.maps, graph.written_urls)
    for task in graph.tasks:
        credentials(task)
        for entry in task.inputs:
            storage.require(entry)
    work.mkdir(parents=True, exist_ok=True)
    write_file(work / SPEC, yaml.safe_dump(document, sort_keys=False).encode())
    return _run(work, settings, jobs)


def restart(work: Path, jobs: int | None = None) -> Result:
    """Resume a run: completed tasks are not run again, the others start again with what their folders hold."""
    work = work.resolve()
    settings = validate(Run, read_json(work / STATE), f"{work / STATE}: ")
    document, number = yaml.safe_load((work / SPEC).read_text()), int(settings.workflow_id.rpartition("-")[2])
    # A restart is a new workflow, as in the cluster.
    workflow_id = _unused_id(document, work, settings.maps, number + 1)
    return _run(work, settings.model_copy(update={"workflow_id": workflow_id}), jobs)


def _unused_id(document: Any, work: Path, maps: Mapping[str, Path], first: int) -> str:
    """Return the first id NAME-N, from `first` on, under which no results are kept: those of two runs would be mixed."""
    storage = Storage(work, maps, ())
    ids = (f"{document['workflow']['name']}-{number}" for number in itertools.count(first))
    return next(
        workflow_id
        for workflow_id in ids
        if not any(workflow_id in url and storage.holds(url) for url in read_graph(document, workflow_id).written_urls)
    )


def _run(work: Path, settings: Run, jobs: int | None) -> Result:
    graph = read_graph(yaml.safe_load((work / SPEC).read_text()), settings.workflow_id)
    done = {name for name, row in settings.tasks.items() if row.status == Status.COMPLETED}
    groups = [{task.name for task in group.tasks} for group in graph.groups]
    # A group runs as a whole or not at all.
    kept = {name: settings.tasks[name] for names in groups if names <= done for name in names}
    busy = f"{work} is being run by another process; wait for it or stop it"
    with locked(work, busy):
        return Runner(graph, settings.model_copy(update={"tasks": kept}), work, jobs or os.cpu_count() or 1).run()


def _rendered_twice(file: Path, values: Mapping[str, Any]) -> Any:
    """Return the document that OSMO would run; raises UserError when no release accepts the file."""
    require_accepted(file, RELEASES, values)
    document = read(file).render(values).document
    for task in all_tasks(document):
        for entry in task.get("inputs", ()):
            if "localpath" in entry.get("dataset", {}):
                entry["dataset"]["localpath"] = str((file.parent / entry["dataset"]["localpath"]).resolve())
    return submitted(document, file.parent, values)


def main(argv: Sequence[str] | None = None) -> int:
    """Check, run or restart; returns 2 for a file that no release accepts, else how the tasks ended."""
    flags = _parser().parse_args(argv)
    try:
        if flags.command == "restart":
            return _report(restart(flags.work, flags.jobs))
        site, texts = read_site(flags.site), flags.set_string
        if flags.command == "check":
            files = {file: parse_set(with_site(site, file, flags.set, texts), texts) for file in flags.files}
            return _check(files, flags.release)
        values = parse_set(with_site(site, flags.file, flags.set, texts), texts)
        environment = dict(_pair(text, "--set-env") for text in flags.set_env)
        maps = {key: Path(folder) for key, folder in (_pair(text, "--map") for text in flags.map)}
        return _report(run(flags.file, values, flags.work, maps, environment, flags.jobs))
    except TemplateError as error:
        raise UserError(one_line(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python -m osmo.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="print what OSMO would refuse in workflow files")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    check.add_argument("--release", choices=RELEASES, help="of OSMO (default: all, and which of them accept the file)")
    run_ = commands.add_parser("run", help="run a workflow on this machine")
    run_.add_argument("file", type=Path, metavar="FILE")
    run_.add_argument("--work", type=Path, help=f"a new folder for the run (default: {RUNS}/NAME-N)")
    run_.add_argument(
        "--map", action="extend", nargs="+", default=[], metavar="URL=FOLDER",
        help="the folder on this machine for a url such as azure://ACCOUNT/CONTAINER, or for the name of a dataset",
    )  # fmt: skip
    run_.add_argument("--set-env", action="extend", nargs="+", default=[], metavar="K=V", help="for every task")
    again = commands.add_parser("restart", help="resume a run: completed tasks are not run again")
    again.add_argument("work", type=Path, metavar="FOLDER")
    for command in (run_, again):
        command.add_argument("--jobs", type=int, help="tasks at the same time (default: the number of cores)")
    for command in (run_, check):
        command.add_argument("--site", type=Path, help="file with the addresses of a team, such as osmo/site.yaml")
        for flag in ("--set", "--set-string"):
            command.add_argument(flag, action="extend", nargs="+", default=[], metavar="K=V", help="a default-value")
    return parser


def _pair(text: str, flag: str) -> tuple[str, str]:
    key, equals, value = text.rpartition("=") if flag == "--map" else text.partition("=")
    if not equals or not key:
        raise UserError(f"{flag} {text}: expected two parts with = between them")
    return key, value


def _check(files: Mapping[Path, Mapping[str, Any]], release: str | None) -> int:
    """Print the findings of every file and the releases that accept it; returns 2 when one is accepted by none."""
    code = 0
    for file, values in files.items():
        found = check_releases(file, (release,) if release else RELEASES, values)
        for finding in sorted({finding for findings in found.values() for finding in findings}):
            concerned = [number for number in found if finding in found[number]]
            print(finding.at(file) + (f" [{', '.join(concerned)}]" if len(concerned) < len(found) else ""))
        accepting = [number for number, findings in found.items() if not refusals(findings)]
        verdict = f"fits OSMO {', '.join(accepting)}" if accepting else f"OSMO {', '.join(found)} refuses it"
        print(f"{file}: {verdict}")
        code = code if accepting else 2
    return code


def _report(result: Result) -> int:
    """Print the end of the log of each failed task, and return the exit code that tells why."""
    for name, row in result.tasks.items():
        if row.status == Status.FAILED:
            log = result.work / name / LOG
            how = "failed at its start" if row.exit_code is None else f"failed with exit code {row.exit_code}"
            print(f"\n{name} {how}; the end of {log}:", file=sys.stderr)
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            for line in lines[-TAIL_LINES:]:
                print(f"  {line}", file=sys.stderr)
    print(f"workflow {result.status}: {result.work}")
    if result.status != Status.COMPLETED:
        print(f"resume with: python -m osmo.local restart {result.work}", file=sys.stderr)
    if result.status != Status.FAILED:
        return 0 if result.status == Status.COMPLETED else EXIT_INTERRUPTED
    codes = {row.exit_code for row in result.tasks.values() if row.status == Status.FAILED}
    return EXIT_TRANSIENT if codes == {EXIT_TRANSIENT} else 1 if 1 in codes else 2


def _next_folder(name: str) -> Path:
    suffixes = [path.name[len(name) + 1 :] for path in RUNS.glob(f"{name}-*")]
    return RUNS / f"{name}-{max((int(suffix) for suffix in suffixes if suffix.isdecimal()), default=0) + 1}"


def _interrupt(*_: object) -> NoReturn:
    """Stop the tasks; unlike Python's own handling of a second Ctrl-C, a second signal leaves none of them behind."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    if (
        signal.getsignal(signal.SIGINT) == signal.default_int_handler
    ):  # else a background job of a shell, which ignores it
        signal.signal(signal.SIGINT, _interrupt)
    run_command(main)
