"""When a process dies, the others do not hang: the training ends within a minute and prints the cause once."""

import random
import signal
from pathlib import Path

import pytest

from common.cli.command import EXIT_TRANSIENT
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
