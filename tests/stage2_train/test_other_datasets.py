"""Datasets of other kinds: other names and only some of the cameras, which the checkpoint keeps, and a single joint."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from common.act.checkpoint import Checkpoint
from common.cli.command import UserError
from stage2_train.train import open_dataset, train
from stage3_eval.__main__ import main as evaluate
from stage3_eval.inputs import open_inputs
from tests.common.lerobot.foreign import change_info, rename_columns
from tests.stage2_train.tiny import tiny_config, write_dataset

RENAME = "data.rename={state: observation.state, actions: action}"


@pytest.fixture
def openpi(tmp_path: Path) -> Path:
    root = write_dataset(tmp_path / "dataset")
    rename_columns(root, {"observation.state": "state", "action": "actions"})
    return root


def test_names_of_the_training_are_those_of_the_evaluation(openpi: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(tiny_config(openpi, out, RENAME, "training.steps=2"))
    policy = out / "checkpoint_000002" / "pretrained_model"
    assert list(Checkpoint.read(policy)._config_json()["input_features"]) == ["observation.state"]
    assert open_inputs(out, openpi, None, "cpu", "delta").held_out is False
    with pytest.raises(UserError, match=r"no observation\.state, no action"):
        open_inputs(out, openpi, None, "cpu", "delta", {})
    with pytest.raises(UserError, match=r"data\.rename .*'state': 'observation\.state'.* -> .*'state': 'action'"):
        train(tiny_config(openpi, out, "data.rename={actions: observation.state, state: action}", "training.steps=3"))


def test_a_camera_with_depth_is_left_out_when_asked_to(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "dataset", cameras={"front": (32, 32), "depth": (32, 32)})
    change_info(root, lambda info: info["features"]["observation.images.depth"].update(shape=[32, 32, 1]))
    config = tiny_config(root, tmp_path / "out")
    with pytest.raises(UserError, match=r"camera depth .* 1 channel;.*--override 'data\.use_cameras=\[front\]'"):
        open_dataset(config)
    with pytest.raises(UserError, match="there is no other camera"):
        open_dataset(tiny_config(root, tmp_path / "out", "data.use_cameras=[depth]"))
    dataset, _, _ = open_dataset(tiny_config(root, tmp_path / "out", "data.use_cameras=[front]"))
    assert list(dataset.cameras) == ["front"]


def test_any_rate_is_taken_unless_one_is_asked_for(tmp_path: Path) -> None:
    root, out = write_dataset(tmp_path / "dataset"), tmp_path / "out"
    change_info(root, lambda info: info.update(fps=15))
    train(tiny_config(root, out, "training.steps=2", "training.save_freq=1"))
    with pytest.raises(UserError, match=r"data\.fps=30, but .* has 15 frames per second"):
        open_dataset(tiny_config(root, out, "data.fps=30"))
    train(tiny_config(root, out, "training.steps=3", "data.fps=15"))  # resumes: it changes no step
    assert Checkpoint.read(out / "checkpoint_000003" / "pretrained_model").robot.fps == 15


def test_a_single_joint_is_trained_and_evaluated(tmp_path: Path) -> None:
    root, out = write_dataset(tmp_path / "dataset", sizes=(1, 1)), tmp_path / "out"
    train(tiny_config(root, out, "training.steps=2"))
    argv = ["--checkpoint", out, "--dataset", root, "--out", tmp_path / "eval", "--action-meaning", "next_position"]
    assert evaluate([str(word) for word in argv]) == 0
    assert "joint_position_joint_0" in pq.read_schema(tmp_path / "eval" / "episode_000.parquet").names
