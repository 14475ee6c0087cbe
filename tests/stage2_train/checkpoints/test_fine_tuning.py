"""Training starts from any ACT checkpoint, and keeps every key of it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.act.checkpoint import LATE_KEYS
from common.cli.command import UserError
from common.cli.config import load
from common.policy import Policy
from stage2_train.checkpoints.fine_tuning import with_base_settings
from stage2_train.config import TrainConfig
from stage2_train.train import train
from tests.conftest import GOLDEN
from tests.stage2_train.tiny import paths, tiny_config, write_dataset

pytestmark = pytest.mark.integration

PREPROCESSOR = "policy_preprocessor_step_3_normalizer_processor.safetensors"


@pytest.fixture(scope="module")
def lerobot_checkpoint(act_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network with the configuration keys and all the statistics that lerobot-train writes."""
    folder = tmp_path_factory.mktemp("lerobot") / "checkpoints" / "000002" / "pretrained_model"
    shutil.copytree(act_tiny, folder)
    real = GOLDEN / "checkpoint_layout" / "pretrained_model"
    settings = json.loads((real / "config.json").read_text()) | json.loads((folder / "config.json").read_text())
    settings |= {"license": "mit", "tags": ["arm"], "repo_id": "somebody/policy"}
    (folder / "config.json").write_text(json.dumps(settings))
    stats = load_file(real / PREPROCESSOR) | load_file(folder / PREPROCESSOR)
    save_file({key: value.contiguous() for key, value in stats.items()}, folder / PREPROCESSOR)
    return folder


ONE_STEP = (
    "training.steps=1",
    "training.lr=0",
    "training.lr_backbone=0",
    "training.batch_size=2",
    "training.device=cpu",
)


def golden_config(init_from: Path, out: Path, *overrides: str) -> TrainConfig:
    keys = [*paths(GOLDEN / "dataset_image", out), *ONE_STEP, f"model.init_from={init_from}", *overrides]
    return with_base_settings(load(TrainConfig, None, keys))


def test_a_fine_tuned_lerobot_checkpoint_keeps_every_key(lerobot_checkpoint: Path, tmp_path: Path) -> None:
    train(golden_config(lerobot_checkpoint, tmp_path / "out", "model.dropout=0.05", "training.weight_decay=0"))
    saved = tmp_path / "out" / "checkpoint_000001" / "pretrained_model"
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (lerobot_checkpoint, saved))
    assert before.keys() - set(LATE_KEYS) <= after.keys()  # those are left out for LeRobot before 0.6
    changed = {key for key in after if key in before and after[key] != before[key]}
    assert changed == {"dropout", "optimizer_lr", "optimizer_lr_backbone", "optimizer_weight_decay"}
    assert (after["license"], after["tags"], after["repo_id"]) == ("mit", ["arm"], "somebody/policy")
    assert load_file(lerobot_checkpoint / PREPROCESSOR).keys() <= load_file(saved / PREPROCESSOR).keys()
    for name, value in load_file(lerobot_checkpoint / "model.safetensors").items():  # at a learning rate of zero
        assert torch.equal(value, load_file(saved / "model.safetensors")[name]), name


def test_a_run_is_fine_tuned_from_its_newest_checkpoint(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    train(tiny_config(dataset, tmp_path / "first"))
    config = tiny_config(
        dataset, tmp_path / "second", f"model.init_from={tmp_path / 'first'}", "training.steps=1", "training.lr=0"
    )
    train(with_base_settings(config))
    first, second = (
        load_file(tmp_path / name / "pretrained_model" / "model.safetensors")
        for name in ("first/checkpoint_000012", "second/checkpoint_000001")
    )
    moved = {name for name, value in first.items() if not torch.allclose(value, second[name], atol=1e-6)}
    assert not moved


def test_keys_that_are_not_set_come_from_the_checkpoint(lerobot_checkpoint: Path, tmp_path: Path) -> None:
    config = golden_config(lerobot_checkpoint, tmp_path, "model.n_action_steps=3")
    assert (config.model.chunk_size, config.model.dim_model, config.model.n_action_steps) == (10, 64, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.dim_model=128", "has model.dim_model 64, this training 128"),
        ("model.chunk_size=12", "has model.chunk_size 10, this training 12"),
        (
            "data.image_size=[32, 48]",
            "has the size of color's images (data.image_size) (64, 96, 3), this training (32, 48, 3)",
        ),
    ],
)
def test_a_setting_that_does_not_fit_the_weights_is_refused(
    lerobot_checkpoint: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        train(golden_config(lerobot_checkpoint, tmp_path / "out", override))
    assert not (tmp_path / "out").exists()


def test_a_dataset_of_another_robot_is_refused(lerobot_checkpoint: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", cameras={"color": (64, 96)}, lengths=(12,))
    with pytest.raises(UserError, match=r"has the size of observation\.state 6, this training 3"):
        train(golden_config(lerobot_checkpoint, tmp_path / "out", f"data.dataset={dataset}"))


def test_the_fine_tuned_policy_has_the_new_datasets_normalization(lerobot_checkpoint: Path, tmp_path: Path) -> None:
    train(golden_config(lerobot_checkpoint, tmp_path / "out"))
    policy = Policy.load(tmp_path / "out")
    stats = json.loads((GOLDEN / "dataset_image" / "meta" / "stats.json").read_text())
    mean = policy.checkpoint.normalizer.statistics()["observation.state.mean"].tolist()
    assert mean == pytest.approx(stats["observation.state"]["mean"], rel=1e-6)
