"""A dataset with other names, and only some of its cameras: the checkpoint keeps both for the evaluation."""

from pathlib import Path

import pytest

from common.act.checkpoint import Checkpoint
from common.cli.command import UserError
from stage2_train.train import open_dataset, train
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
    with pytest.raises(UserError, match=r"camera depth .* 1 channels.*--override 'data\.use_cameras=\[front\]'"):
        open_dataset(config)
    dataset, _, _ = open_dataset(tiny_config(root, tmp_path / "out", "data.use_cameras=[front]"))
    assert list(dataset.cameras) == ["front"]
