"""SIGTERM, to one process or to all, ends a training with a checkpoint of the step it was at, and exit code 75."""

import signal
import time
from pathlib import Path

import pytest

from common.cli.command import EXIT_TRANSIENT
from stage2_train.checkpoints.saving import numbered
from tests.reliability.harness import Warm, leftovers
from tests.stage2_train.tiny import content, finish, metrics, start, stderr, without_times, write_dataset

LONG = ("training.steps=100000", "training.save_freq=100000", "training.log_freq=5")


@pytest.mark.parametrize("world_size", [1, 2])
def test_sigterm_saves_and_exits_with_75(warm: Warm, tmp_path: Path, world_size: int) -> None:
    dataset, out = write_dataset(tmp_path / "dataset"), tmp_path / "out"
    commands = start(warm, dataset, out, *LONG, world_size=world_size)
    commands[0].wait_for(lambda: len(metrics(out)) >= 2)
    asked = time.monotonic()
    commands[-1].signal(signal.SIGTERM)  # the others hear of it
    assert finish(commands) == [EXIT_TRANSIENT] * world_size, stderr(out)
    assert time.monotonic() - asked < 25
    ((step, folder),) = numbered(out)
    assert step >= metrics(out)[-1]["step"]
    said = "".join(stderr(out, rank) for rank in range(world_size))
    assert said.count(f"stopped by SIGTERM; saved at step {step}, the same command goes on from there") == 1

    if world_size == 1:  # the saved state is the one a run of so many steps ends with
        whole = tmp_path / "whole"
        assert finish(start(warm, dataset, whole, *LONG, f"training.steps={step}")) == [0]
        of = f"{folder.name}/pretrained_model/model.safetensors"
        assert content(out)[of] == content(whole)[of]
        assert without_times(out) == [row for row in without_times(whole) if row["step"] % 5 == 0]


def test_sigterm_while_images_are_decoded_ends_it_at_once(warm: Warm, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", lengths=[100] * 10, cameras={"front": (96, 96)})
    (command,) = start(warm, dataset, tmp_path / "out", "data.image_stats=imagenet")
    command.wait_for(lambda: any((tmp_path / "cache" / "frames").glob(".tmp-*")))
    command.signal(signal.SIGTERM)
    assert finish([command]) == [EXIT_TRANSIENT], stderr(tmp_path / "out")
    assert "stopped by SIGTERM before the first step" in stderr(tmp_path / "out")
    assert not leftovers(tmp_path / "cache")
