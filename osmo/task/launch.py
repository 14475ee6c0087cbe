"""Runs one stage inside a task: `python -m osmo.launch convert|train|eval`.

It finds bags, dataset and checkpoint in the task's inputs, starts the stage (training on several processes by torchrun),
forwards SIGTERM to it, and exits with the exit code of the stage: 75 lets OSMO start the task again.
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

from common.cli.command import EXIT_TRANSIENT, Parser, TransientError, UserError
from osmo.task.container_paths import container_path
from osmo.task.rank import CODE, PID

MAX_DEPTH = 3  # of a dataset or run within an input: OSMO adds a folder with the name of an OSMO dataset
HOST_WAIT_S = 600
log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage of a task; flags that the launcher does not know are passed to the stage."""
    parser = Parser("python -m osmo.launch", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    convert = stages.add_parser("convert", help="convert bags into TO/dataset")
    convert.add_argument("--bags", required=True, help="a folder, or azure://ACCOUNT/CONTAINER/PREFIX")
    train = stages.add_parser("train", help="train on a dataset and copy the run below TO")
    train.add_argument("--dataset", type=Path, required=True, help="folder that holds the dataset")
    train.add_argument("--restore", type=Path, help="folder with the checkpoints of an earlier attempt, if any")
    evaluation = stages.add_parser("eval", help="evaluate a run on a dataset into TO")
    evaluation.add_argument("--checkpoint", type=Path, required=True, help="folder that holds the run")
    evaluation.add_argument("--dataset", type=Path, required=True, help="folder that holds the dataset")
    for stage in (convert, train, evaluation):
        stage.add_argument("--to", type=Path, required=True, help="the task's {{output}}")
    flags, rest = parser.parse_known_args(argv)
    return {"convert": _convert, "train": _train, "eval": _evaluate}[flags.stage](flags, rest)


def _convert(flags: argparse.Namespace, rest: list[str]) -> int:
    src = flags.bags if "://" in flags.bags else str(_link_bags(Path(flags.bags), container_path("BAGS_DIR")))
    config = container_path("CONVERT_CONFIG_FILE")
    config_flags = ["--config", str(config)] if config.exists() else []
    cores = len(os.sched_getaffinity(0))
    workers = min(_count("WORKERS", cores), cores)  # a container sees all cores of its machine, not only its own
    command = ["--src", src, "--out", str(flags.to / "dataset"), "--workers", str(workers), *config_flags, *rest]
    return _supervise(_python("stage1_convert", command))


def _train(flags: argparse.Namespace, rest: list[str]) -> int:
    run_folder = container_path("OUTPUT_DIR")
    dataset = find(flags.dataset, "meta/info.json", "a LeRobot dataset")
    if flags.restore:
        restore(flags.restore, run_folder)
    settings = [f"data.dataset={dataset}", f"training.output_dir={run_folder}"]
    # A repeated --override adds to the list, and the last value of a key wins: the task's own settings come last.
    arguments = ["--config", str(container_path("CONFIG_FILE")), "--override", *settings, *rest]
    nodes, rank = _count("NNODES", 1), _count("NODE_RANK", 0)
    processes = max(_count("GPUS", 1), 1)  # a machine without a GPU trains on its CPU
    if nodes * processes == 1:
        code = _supervise(_python("stage2_train", arguments))
    else:
        code = _torchrun(nodes, rank, processes, arguments)
    if rank == 0 and any(run_folder.glob("checkpoint_*")):  # also after a failure: OSMO uploads what is there
        copy_run(run_folder, flags.to / run_folder.name)
    return code


def _evaluate(flags: argparse.Namespace, rest: list[str]) -> int:
    checkpoint = find(flags.checkpoint, "checkpoint_*", "a training run with checkpoint_NNNNNN")
    dataset = find(flags.dataset, "meta/info.json", "a LeRobot dataset")
    arguments = ["--checkpoint", str(checkpoint), "--dataset", str(dataset), "--out", str(flags.to)]
    return _supervise(_python("stage3_eval", [*arguments, *rest]))


def exit_transient(*_: object) -> None:
    """Handle SIGTERM while no stage runs: OSMO may start the task again. While one runs, _supervise forwards the signal."""
    # SystemExit, because logging swallows every subclass of Exception and the signal may come within a log call.
    sys.exit(EXIT_TRANSIENT)


def find(folder: Path, pattern: str, what: str) -> Path:
    """Return the only folder, `folder` itself or up to MAX_DEPTH levels down, in which `pattern` matches.

    Raises UserError when there is none or more than one.
    """
    for depth in range(MAX_DEPTH + 1):
        candidates = folder.glob("/".join("*" * depth)) if depth else [folder]
        found = sorted(path for path in candidates if path.is_dir() and any(path.glob(pattern)))
        if len(found) > 1:
            raise UserError(f"{folder} holds {what} more than once: {', '.join(map(str, found))}; give one as input")
        if found:
            return found[0]
    there = ", ".join(sorted(path.name for path in folder.glob("*"))) or "nothing"
    raise UserError(f"no {pattern} in {folder}: expected {what}, found {there}; is the task's input the right one?")


def restore(source: Path, run_folder: Path) -> None:
    """Copy the checkpoints of an earlier attempt to the run folder, unless it has some already."""
    if any(run_folder.glob("checkpoint_*")):
        log.info("%s holds checkpoints already; resuming from them", run_folder)
    elif any(source.rglob("checkpoint_*")):
        shutil.copytree(find(source, "checkpoint_*", "checkpoints"), run_folder, dirs_exist_ok=True)
        log.info("restored %s from %s", ", ".join(sorted(p.name for p in run_folder.glob("checkpoint_*"))), source)
    else:
        log.info("no earlier checkpoints in %s; starting from the beginning", source)


def copy_run(run_folder: Path, target: Path) -> None:
    """Copy a run without links and temporary files: OSMO's upload skips linked folders and follows linked files."""

    def unwanted(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if ".tmp" in name or name == ".lock" or Path(folder, name).is_symlink()]

    shutil.copytree(run_folder, target, ignore=unwanted, dirs_exist_ok=True)


def wait_for_host(name: str, timeout_s: float = HOST_WAIT_S) -> None:
    """Wait until the name of a host can be resolved; raises TransientError after `timeout_s`."""
    log.info("waiting for the name of the lead, %s, to be resolved", name)
    end = time.monotonic() + timeout_s
    while True:
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            if time.monotonic() > end:
                raise TransientError(
                    f"the name of the lead, {name}, cannot be resolved after {timeout_s:.0f} s: {error}"
                ) from error
            time.sleep(1.0)
        else:
            return


def _link_bags(bags: Path, link: Path) -> Path:
    """Link the bags to the path that teams know, and return it; return `bags` where the link cannot be made."""
    if not bags.is_dir():
        raise UserError(f"--bags {bags} is not a folder; is it the task's input?")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():
            link.unlink()
        elif link.is_dir():
            link.rmdir()
        link.symlink_to(bags.resolve(), target_is_directory=True)
    except OSError as error:
        log.warning("%s stays as it is (%s); reading the bags from %s", link, error.strerror, bags)
        return bags
    return link


def _count(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal():
        raise UserError(f"{variable}={text}: expected a whole number")
    return int(text)


def _python(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _torchrun(nodes: int, rank: int, processes: int, arguments: list[str]) -> int:
    rendezvous = ["--standalone"]
    if nodes > 1:
        host = os.environ.get("MASTER_ADDR")
        if not host:
            raise UserError("NNODES is above 1 but MASTER_ADDR is not set: MASTER_ADDR: '{{host:LEAD}}'")
        wait_for_host(host, _count("HOST_WAIT_S", HOST_WAIT_S))
        port = _count("MASTER_PORT", 29400)
        rendezvous = ["--node-rank", str(rank), "--master-addr", host, "--master-port", str(port)]
    flags = ["--nnodes", str(nodes), "--nproc-per-node", str(processes), *rendezvous, "--max-restarts", "0"]
    with tempfile.TemporaryDirectory(prefix="launch-") as folder:
        command = _python("torch.distributed.run", [*flags, "-m", "osmo.task.rank", *arguments])
        environment = {**os.environ, "LAUNCH_DIR": folder}
        return _supervise(command, environment, Path(folder))


def _supervise(command: list[str], environment: dict[str, str] | None = None, ranks: Path | None = None) -> int:
    """Run a command, forwarding SIGTERM and SIGINT as SIGTERM; return its exit code, or that of its ranks if it has any."""
    log.info("running %s", " ".join(command[1:]))
    # In a session of its own, so that a signal to the task's process group reaches the ranks only through this process.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    signals: list[int] = []

    def forward(signum: int, _: Any) -> None:
        signals.append(signum)
        for pid in _running(ranks) or [process.pid]:
            _send(pid, signal.SIGTERM)

    before = [(number, signal.signal(number, forward)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        code = process.wait()
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    if ranks is not None:
        code = training_exit_code(
            code, [_code_of(path.with_suffix(CODE)) for path in ranks.glob(f"*{PID}")], bool(signals)
        )
    return 128 - code if code < 0 else code


def training_exit_code(code: int, ranks: list[int | None], was_stopped: bool) -> int:
    """Return the exit code of a training from that of torchrun and those of its ranks, None for a rank that wrote none.

    A rank that fails makes torchrun stop the others, which save and exit with 75. Theirs is not the cause: any other code
    has priority, then that of a rank that was killed (137); 75 is returned only where nothing worse happened.
    """
    if code == 0:
        return 0
    worse = sorted(rank for rank in ranks if rank not in (None, 0, EXIT_TRANSIENT))
    if worse:
        return int(worse[-1] or 1)
    if was_stopped:  # a rank without an exit code had not begun: nothing is lost
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
        log.info("process %d has ended already", pid)
