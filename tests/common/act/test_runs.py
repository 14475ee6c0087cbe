"""A path stands for the checkpoint a person means by it; a damaged one is never taken in silence."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from common.act.runs import damage, pretrained_folder
from common.cli.command import UserError
from common.policy import Policy
from common.storage.files import new_folder
from tests.conftest import GOLDEN


@pytest.fixture(scope="module")
def pretrained(act_tiny: Path) -> Path:
    return act_tiny


def save(checkpoint: Path, pretrained: Path) -> None:
    """Write a checkpoint as the training does: a manifest beside pretrained_model/."""
    with new_folder(checkpoint) as folder:
        (folder / "pretrained_model").mkdir()
        for path in pretrained.iterdir():
            (folder / "pretrained_model" / path.name).symlink_to(path)


@pytest.fixture
def run(pretrained: Path, tmp_path: Path) -> Path:
    for name in ("checkpoint_000002", "checkpoint_000010", "best"):
        save(tmp_path / "run" / name, pretrained)
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    return tmp_path / "run"


def test_a_run_stands_for_its_newest_checkpoint(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert pretrained_folder(run) == run / "checkpoint_000010" / "pretrained_model"
    assert "using checkpoint_000010" in caplog.text


@pytest.mark.parametrize("name", ["best", "checkpoint_000002", "checkpoint_000002/pretrained_model"])
def test_a_checkpoint_stands_for_itself(name: str, run: Path) -> None:
    assert pretrained_folder(run / name) == run / name.removesuffix("/pretrained_model") / "pretrained_model"


def test_a_run_without_a_complete_checkpoint_is_refused(run: Path) -> None:
    shutil.rmtree(run / "checkpoint_000002")
    (run / "checkpoint_000010" / "pretrained_model" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="none of its 1 checkpoints is complete"):
        pretrained_folder(run)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint in .*: config\.json is missing"):
        pretrained_folder(tmp_path)


def test_lerobots_layout_is_read_by_content(pretrained: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    for step in ("000500", "001000"):
        (checkpoints / step).mkdir(parents=True)
        (checkpoints / step / "pretrained_model").symlink_to(pretrained)
    (checkpoints / "last").symlink_to("000500")
    assert pretrained_folder(tmp_path / "run") == checkpoints / "001000" / "pretrained_model"
    assert pretrained_folder(checkpoints) == checkpoints / "001000" / "pretrained_model"
    assert pretrained_folder(checkpoints / "last") == checkpoints / "last" / "pretrained_model"
    (checkpoints / "001000" / "pretrained_model").unlink()
    shutil.copytree(pretrained, checkpoints / "001000" / "pretrained_model")
    weights = checkpoints / "001000" / "pretrained_model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert damage(checkpoints / "001000")
    assert pretrained_folder(tmp_path / "run") == checkpoints / "000500" / "pretrained_model"


def test_a_policy_loads_from_a_run(run: Path) -> None:
    settings = json.loads((GOLDEN / "act_tiny" / "pretrained_model" / "config.json").read_text())
    assert Policy.load(run).chunk_size == settings["chunk_size"]
