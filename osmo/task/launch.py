"""What runs inside a task: `python -m osmo.launch convert|train|eval`, folders of the task in, {{output}} filled.

It finds bags, dataset and checkpoint in what OSMO brought, starts the stage (training on several processes by torchrun),
passes SIGTERM on and waits, and ends with the stage's own exit code: 75 lets OSMO start the task again.
"""

import argparse
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli.command import EXIT_TRANSIENT, Parser, TransientError, UserError, run
from osmo.task.container_paths import container_path
from osmo.task.rank import CODE, PID

DEPTH = 3  # how many folders deep a dataset or run may lie in an input: OSMO puts a dataset's name in between
HOST_WAIT_S = 600
log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage of a task; flags that are not the launcher's own go to the stage."""
    parser = Parser("python -m osmo.launch", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    convert = stages.add_parser("convert", help="bags in, TO/dataset out")
    convert.add_argument("--bags", required=True, help="a folder, or azure://ACCOUNT/CONTAINER/PREFIX")
    train = stages.add_parser("train", help="a dataset in, the run below TO out")
    train.add_argument("--dataset", type=Path, required=True, help="folder in which the dataset lies")
    train.add_argument("--restore", type=Path, help="folder with the checkpoints of an earlier try, if any")
    evaluation = stages.add_parser("eval", help="a run and a dataset in, the evaluation in TO out")
    evaluation.add_argument("--checkpoint", type=Path, required=True, help="folder in which the run lies")
    evaluation.add_argument("--dataset", type=Path, required=True, help="folder in which the dataset lies")
    for stage in (convert, train, evaluation):
        stage.add_argument("--to", type=Path, required=True, help="the task's {{output}}")
    flags, rest = parser.parse_known_args(argv)
    return {"convert": _convert, "train": _train, "eval": _evaluate}[flags.stage](flags, rest)


def _convert(flags: argparse.Namespace, rest: list[str]) -> int:
    src = flags.bags if "://" in flags.bags else str(_shown(Path(flags.bags), container_path("BAGS_DIR")))
    config = container_path("CONVERT_CONFIG_FILE")
    given = ["--config", str(config)] if config.exists() else []
    cores = len(os.sched_getaffinity(0))
    workers = min(_count("WORKERS", cores), cores)  # a container sees all cores of its machine, not only its share
    command = ["--src", src, "--out", str(flags.to / "dataset"), "--workers", str(workers), *given, *rest]
    return _supervise(_python("stage1_convert", command))


def _train(flags: argparse.Namespace, rest: list[str]) -> int:
    run_folder = container_path("OUTPUT_DIR")
    dataset = find(flags.dataset, "meta/info.json", "a LeRobot dataset")
    if flags.restore:
        restore(flags.restore, run_folder)
    settings = [f"data.dataset={dataset}", f"training.output_dir={run_folder}"]
    # Repeating --override adds to the list, and what comes later wins: the task's own settings stand last.
    arguments = ["--config", str(container_path("CONFIG_FILE")), "--override", *settings, *rest]
    nodes, rank, processes = _count("NNODES", 1), _count("NODE_RANK", 0), _count("GPUS", 1)
    if nodes * processes == 1:
        code = _supervise(_python("stage2_train", arguments))
    else:
        code = _torchrun(nodes, rank, processes, arguments)
    if rank == 0 and any(run_folder.glob("checkpoint_*")):  # also after a failure: OSMO keeps what is there
        copy_run(run_folder, flags.to / run_folder.name)
    return code


def _evaluate(flags: argparse.Namespace, rest: list[str]) -> int:
    checkpoint = find(flags.checkpoint, "checkpoint_*", "a training run with checkpoint_NNNNNN")
    dataset = find(flags.dataset, "meta/info.json", "a LeRobot dataset")
    places = ["--checkpoint", str(checkpoint), "--dataset", str(dataset), "--out", str(flags.to)]
    return _supervise(_python("stage3_eval", [*places, *rest]))


def find(folder: Path, pattern: str, what: str) -> Path:
    """Return the one folder, `folder` itself or up to three levels down, in which `pattern` matches.

    Raises UserError when there is none or more than one.
    """
    for depth in range(DEPTH + 1):
        folders = (place for place in (folder.glob("/".join("*" * depth)) if depth else [folder]) if place.is_dir())
        found = sorted(place for place in folders if any(place.glob(pattern)))
        if len(found) > 1:
            raise UserError(f"{folder} holds {what} more than once: {', '.join(map(str, found))}; give one as input")
        if found:
            return found[0]
    there = ", ".join(sorted(path.name for path in folder.glob("*"))) or "nothing"
    raise UserError(f"no {pattern} in {folder}: expected {what}, found {there}; is the task's input the right one?")


def restore(source: Path, run_folder: Path) -> None:
    """Copy an earlier try's checkpoints to where training looks for them, unless some are there already."""
    if any(run_folder.glob("checkpoint_*")):
        log.info("%s holds checkpoints already; going on from them", run_folder)
    elif any(source.rglob("checkpoint_*")):
        shutil.copytree(find(source, "checkpoint_*", "checkpoints"), run_folder, dirs_exist_ok=True)
        log.info("restored %s from %s", ", ".join(sorted(p.name for p in run_folder.glob("checkpoint_*"))), source)
    else:
        log.info("no earlier checkpoints in %s; starting from the beginning", source)


def copy_run(run_folder: Path, to: Path) -> None:
    """Copy a run without links and temporaries: OSMO's upload skips linked folders and follows linked files."""

    def unwanted(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if ".tmp" in name or name == ".lock" or Path(folder, name).is_symlink()]

    shutil.copytree(run_folder, to, ignore=unwanted, dirs_exist_ok=True)


def wait_for_host(name: str, within_s: float = HOST_WAIT_S) -> None:
    """Return when a host's name is known to the cluster; raises TransientError when that takes too long."""
    log.info("waiting for the lead, %s, to be known", name)
    end = time.monotonic() + within_s
    while True:
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            if time.monotonic() > end:
                raise TransientError(f"the lead's name {name} is not known after {within_s:.0f} s: {error}") from error
            time.sleep(1.0)
        else:
            return


def _shown(bags: Path, at: Path) -> Path:
    """Make the bags appear at the place that teams know, by a link."""
    if not bags.is_dir():
        raise UserError(f"--bags {bags} is not a folder; is it the task's input?")
    try:
        at.parent.mkdir(parents=True, exist_ok=True)
        if at.is_symlink():
            at.unlink()
        elif at.is_dir():
            at.rmdir()
        at.symlink_to(bags.resolve(), target_is_directory=True)
    except OSError as error:
        log.warning("%s stays as it is (%s); reading the bags from %s", at, error.strerror, bags)
        return bags
    return at


def _count(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal():
        raise UserError(f"{variable}={text}: expected a whole number")
    return int(text)


def _python(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _torchrun(nodes: int, rank: int, processes: int, arguments: list[str]) -> int:
    meeting = ["--standalone"]
    if nodes > 1:
        host = os.environ.get("MASTER_ADDR")
        if not host:
            raise UserError("NNODES is above 1 but MASTER_ADDR is not set: MASTER_ADDR: '{{host:LEAD}}'")
        wait_for_host(host, _count("HOST_WAIT_S", HOST_WAIT_S))
        port = _count("MASTER_PORT", 29400)
        meeting = ["--node-rank", str(rank), "--master-addr", host, "--master-port", str(port)]
    flags = ["--nnodes", str(nodes), "--nproc-per-node", str(processes), *meeting, "--max-restarts", "0"]
    with tempfile.TemporaryDirectory(prefix="launch-") as folder:
        command = _python("torch.distributed.run", [*flags, "-m", "osmo.task.rank", *arguments])
        environment = {**os.environ, "LAUNCH_DIR": folder}
        return _supervise(command, environment, Path(folder))


def _supervise(command: list[str], environment: dict[str, str] | None = None, ranks: Path | None = None) -> int:
    """Run a command to its end, passing SIGTERM and SIGINT on as SIGTERM; return its code, or its ranks' if it has some."""
    log.info("running %s", " ".join(command[1:]))
    # A session of its own: a signal to the task's process group reaches the ranks through us alone, and once.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    told: list[int] = []

    def pass_on(signum: int, _: Any) -> None:
        told.append(signum)
        for pid in _running(ranks) or [process.pid]:
            _send(pid, signal.SIGTERM)

    before = [(number, signal.signal(number, pass_on)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        code = process.wait()
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    if ranks is not None:
        code = verdict(code, [_code_of(path.with_suffix(CODE)) for path in ranks.glob(f"*{PID}")], bool(told))
    return 128 - code if code < 0 else code


def verdict(code: int, ranks: list[int | None], told_to_stop: bool) -> int:
    """Return the exit code of a training from torchrun's and its ranks', None for one that left no word.

    A rank that fails makes torchrun stop the others, which save and answer 75: theirs is not the cause, so any other code
    comes first, then that of a rank which was killed (137); 75 is the answer only where nothing worse happened.
    """
    if code == 0:
        return 0
    worse = sorted(rank for rank in ranks if rank not in (None, 0, EXIT_TRANSIENT))
    if worse:
        return int(worse[-1] or 1)
    if told_to_stop:  # a rank that left no word had not begun: nothing is lost
        return EXIT_TRANSIENT
    if None in ranks:
        return 137
    return EXIT_TRANSIENT if EXIT_TRANSIENT in ranks else code


def _running(ranks: Path | None) -> list[int]:
    files = sorted(ranks.glob(f"*{PID}")) if ranks is not None else []
    return [int(file.read_text()) for file in files if not file.with_suffix(CODE).exists()]


def _code_of(file: Path) -> int | None:
    return int(file.read_text()) if file.exists() else None


def _send(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        log.info("process %d had ended already", pid)


def _leave(*_: object) -> None:
    # No subclass of Exception: the signal may come in the middle of a log line, and logging swallows those.
    sys.exit(EXIT_TRANSIENT)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)  # while a stage runs, _supervise passes the signal on instead
    run(main)
