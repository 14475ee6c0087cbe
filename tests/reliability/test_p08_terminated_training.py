"""SIGTERM, to one process or to all, ends a training with a checkpoint of the current step and exit code 75."""

import signal
from pathlib import Path

import pytest

from common.act.runs import list_checkpoints
from common.cli.command import EXIT_INTERRUPTED, EXIT_TRANSIENT, STOPPED
from tests.reliability.harness import Warm, leftovers
from tests.stage2_train.tiny import content, finish, metrics, start, stderr, train_as, without_times, write_dataset

LONG = ("training.steps=100000", "training.save_freq=100000", "training.log_freq=5")


@pytest.mark.parametrize("world_size", [1, 2])
def test_sigterm_saves_and_exits_with_75(warm: Warm, dataset: Path, tmp_path: Path, world_size: int) -> None:
    out = tmp_path / "out"
    commands = start(warm, dataset, out, *LONG, world_size=world_size)
    commands[0].wait_for(lambda: len(metrics(out)) >= 2)
    commands[-1].signal(signal.SIGTERM)  # to one rank only
    assert finish(commands, timeout_s=25) == [EXIT_TRANSIENT] * world_size, stderr(out)
    ((step, folder),) = list_checkpoints(out)
    assert step == metrics(out)[-1]["step"]
    output = "".join(stderr(out, rank) for rank in range(world_size))
    assert output.count(f"stopped by SIGTERM; saved at step {step}, the same command resumes from there") == 1

    if world_size == 1:  # weights and log are those of a run of so many steps
        whole = train_as(1, warm, dataset, tmp_path / "whole", *LONG, f"training.steps={step}")
        weights = f"{folder.name}/pretrained_model/model.safetensors"
        assert content(out)[weights] == content(whole)[weights]
        assert without_times(out) == without_times(whole)


def test_ctrl_c_saves_and_exits_with_130(warm: Warm, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (command,) = start(warm, dataset, out, *LONG)
    command.wait_for(lambda: len(metrics(out)) >= 2)
    command.signal(signal.SIGINT)
    assert finish([command], timeout_s=25) == [EXIT_INTERRUPTED], stderr(out)
    ((step, _),) = list_checkpoints(out)
    assert step == metrics(out)[-1]["step"]
    assert f"saved at step {step}\n{STOPPED}\n" in stderr(out)


def test_sigterm_while_images_are_decoded_stops_at_once(warm: Warm, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", lengths=[100] * 10, cameras={"front": (96, 96)})
    (command,) = start(warm, dataset, tmp_path / "out", "data.image_stats=imagenet")
    command.wait_for(lambda: any((tmp_path / "cache" / "frames").glob(".tmp-*")))
    command.signal(signal.SIGTERM)
    assert finish([command]) == [EXIT_TRANSIENT], stderr(tmp_path / "out")
    assert "stopped by SIGTERM before the first step" in stderr(tmp_path / "out")
    assert not leftovers(tmp_path / "cache")
