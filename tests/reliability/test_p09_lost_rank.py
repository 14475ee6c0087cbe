"""A process that dies does not leave the others waiting: the training ends within a minute and says why once."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.cli.command import EXIT_TRANSIENT
from tests.conftest import ROOT
from tests.reliability.harness import Warm, loops
from tests.stage2_train.tiny import finish, metrics, start, stderr, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("lost") / "dataset")


@pytest.mark.parametrize("loop", range(loops(1, 50)))
def test_the_others_end_when_one_dies(warm: Warm, dataset: Path, tmp_path: Path, loop: int) -> None:
    out, lost, left = tmp_path / "out", (loop + 1) % 2, loop % 2
    args = ("training.steps=100000", "training.save_freq=100000", "training.log_freq=5")
    commands = start(warm, dataset, out, *args, world_size=2)
    commands[0].wait_for(lambda: len(metrics(out)) >= 2)
    commands[left].ends_within(random.Random(loop).uniform(0, 0.1))  # anywhere in a step
    died = time.monotonic()
    commands[lost].signal(signal.SIGKILL)
    codes = finish(commands, 60)
    assert (codes[left], codes[lost]) == (EXIT_TRANSIENT, -signal.SIGKILL), stderr(out, left)
    assert time.monotonic() - died < 60
    (line,) = [line for line in stderr(out, left).splitlines() if "lost another process" in line]
    assert line.startswith(
        f"error (may pass; run the same command again): rank {left} lost another process of the training"
    )
    assert "Traceback" not in stderr(out, left)


LOST = """
from common.cli.command import TransientError
from stage2_train.ranks import join

try:
    with join("cpu") as ranks:
        ranks.wait_for_all()  # one that is still joining would lose the other by another word
        raise RuntimeError("Connection closed by peer")  # as gloo says it
except TransientError as error:
    print(error)
"""


def test_a_process_that_lost_another_one_leaves_without_taking_its_groups_apart() -> None:
    """Whether that hangs is chance: what is sure is that such a process gets no further than its end, by `os._exit`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", LOST]
    ranks = [
        subprocess.Popen(command, cwd=ROOT, env=os.environ | place | {"RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    heard = [process.communicate(timeout=60)[0] for process in ranks]
    for rank, (process, said) in enumerate(zip(ranks, heard, strict=True)):
        assert said == f"rank {rank} lost another process of the training: Connection closed by peer\n"
        assert process.returncode == EXIT_TRANSIENT
