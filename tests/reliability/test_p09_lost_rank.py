"""When a process dies, the others do not hang: the training ends within a minute and prints the cause once."""

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli.command import EXIT_TRANSIENT
from tests.conftest import ROOT
from tests.reliability.harness import Warm, loops
from tests.stage2_train.tiny import finish, metrics, start, stderr


@pytest.mark.parametrize("loop", range(loops(1, 50)))
def test_the_others_end_when_one_dies(warm: Warm, dataset: Path, tmp_path: Path, loop: int) -> None:
    out, lost, left = tmp_path / "out", (loop + 1) % 2, loop % 2
    args = ("training.steps=100000", "training.save_freq=100000", "training.log_freq=5")
    commands = start(warm, dataset, out, *args, world_size=2)
    commands[0].wait_for(lambda: len(metrics(out)) >= 2)
    commands[left].ends_within(random.Random(loop).uniform(0, 0.1))  # anywhere in a step
    commands[lost].signal(signal.SIGKILL)
    codes = finish(commands, 60)
    assert (codes[left], codes[lost]) == (EXIT_TRANSIENT, -signal.SIGKILL), stderr(out, left)
    (line,) = [line for line in stderr(out, left).splitlines() if "lost another process" in line]
    assert line.startswith(
        f"error (temporary; run the same command again): rank {left} lost another process of the training"
    )
    assert "Traceback" not in stderr(out, left)


LOST = """
from common.cli.command import TransientError
from stage2_train.distributed import init_distributed

try:
    with init_distributed("cpu") as world:
        world.barrier()  # a process that is still joining would fail with another message
        raise RuntimeError("Connection closed by peer")  # as gloo says it
except TransientError as error:
    print(error)
"""


def test_a_process_that_lost_another_one_exits_without_destroying_its_groups() -> None:
    """Whether destroying them would hang is chance; that such a process ends by `os._exit` is certain."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", LOST]
    ranks = [
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment | {"RANK": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    outputs = [process.communicate(timeout=60)[0] for process in ranks]
    for rank, (process, output) in enumerate(zip(ranks, outputs, strict=True)):
        assert output == f"rank {rank} lost another process of the training: Connection closed by peer\n"
        assert process.returncode == EXIT_TRANSIENT
