"""The held-out loss is the L1 error of the policy as on the robot, for any number of processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.lerobot.dataset import Dataset
from common.policy import Policy
from stage2_train.train import train
from tests.reliability.harness import Warm
from tests.stage2_train.tiny import metrics, tiny_config, train_as

pytestmark = pytest.mark.integration

# The 12 frames held out fill two batches and a part of the third.
HELD_OUT = ("data.val_fraction=0.34", "training.val_freq=4", "training.lr=1e-2", "training.batch_size=5")


@pytest.fixture(scope="module")
def out(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    train(tiny_config(dataset, folder, *HELD_OUT))
    return folder


def val_losses(out: Path) -> dict[int, float]:
    return {int(row["step"]): row["val_loss"] for row in metrics(out) if "val_loss" in row}


def test_it_equals_the_mean_error_of_the_policy_over_the_frames(dataset: Path, out: Path) -> None:
    policy, opened = Policy.load(out / "checkpoint_000012"), Dataset.open(dataset)
    columns = opened.columns(["observation.state", "action"])
    std = policy.checkpoint.normalizer.statistics()["action.std"].numpy() + 1e-8
    (episode,) = [opened.episodes[number] for number in policy.checkpoint.train_config["val_episodes"]]
    errors = []
    for row in range(episode.start, episode.stop):
        chunk = policy.predict_chunk({"observation.state": columns["observation.state"][row : row + 1]})[0].numpy()
        recorded = columns["action"][row : min(row + 5, episode.stop)]
        errors.append(np.abs(chunk[: len(recorded)] - recorded) / std)
    assert val_losses(out)[12] == pytest.approx(np.concatenate(errors).mean(), rel=1e-4)


def test_it_is_logged_every_val_freq_steps_and_at_the_end(out: Path) -> None:
    assert list(val_losses(out)) == [4, 8, 12]


def test_best_holds_the_step_with_the_lowest_loss(out: Path) -> None:
    losses = val_losses(out)
    best = json.loads((out / "best" / "best.json").read_text())
    assert best == {"step": min(losses, key=losses.__getitem__), "val_loss": min(losses.values())}
    manifest = json.loads((out / "best" / "manifest.json").read_text())
    assert "pretrained_model/model.safetensors" in manifest
    assert Policy.load(out / "best").chunk_size == 5


def test_two_processes_share_the_work_and_agree(warm: Warm, dataset: Path, out: Path, tmp_path: Path) -> None:
    args = (*HELD_OUT, "training.lr=1e-4", "model.dropout=0")
    train(tiny_config(dataset, tmp_path / "alone", *args, "training.batch_size=10"))
    together = train_as(2, warm, dataset, tmp_path / "together", *args)
    assert list(val_losses(together).values()) == pytest.approx(list(val_losses(tmp_path / "alone").values()), rel=1e-4)


def test_validation_does_not_change_the_training(dataset: Path, out: Path, tmp_path: Path) -> None:
    train(tiny_config(dataset, tmp_path / "out", *HELD_OUT, "training.val_freq=1"))
    name = "checkpoint_000012/pretrained_model/model.safetensors"
    one, other = load_file(out / name), load_file(tmp_path / "out" / name)
    assert all(torch.equal(value, other[key]) for key, value in one.items())
