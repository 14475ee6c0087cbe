"""A checkpoint and a dataset that do not belong together are refused with both sides named, before any work."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.act.checkpoint import Checkpoint, PolicyShape
from common.act.records import Robot
from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.policy import Policy
from stage3_eval.inputs import choose_device, choose_episodes, choose_meaning, open_inputs, require_match
from stage3_eval.recording import read_rows
from tests.common.lerobot.foreign import change_info
from tests.conftest import GOLDEN
from tests.stage3_eval.conftest import WriteCheckpoint, tiny_checkpoint


@pytest.fixture(scope="module")
def golden() -> Dataset:
    return Dataset.open(GOLDEN / "dataset_image")


@pytest.fixture(scope="module")
def trained(golden: Dataset) -> Checkpoint:
    return tiny_checkpoint(golden)


def edit_info(root: Path, **features: dict[str, Any]) -> Dataset:
    """Change some features in meta/info.json; a key's dots are written as double underscores."""
    info = json.loads((root / "meta" / "info.json").read_text())
    for name, changes in features.items():
        info["features"][name.replace("__", ".")].update(changes)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return Dataset.open(root)


COLOR = {"color": (64, 96, 3)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": PolicyShape(7, 6, COLOR)}, r"observation\.state .*\(7,\).*\(6,\)"),
        ({"shape": PolicyShape(6, 5, COLOR)}, r"action .*\(5,\).*\(6,\)"),
        (
            {"shape": PolicyShape(6, 6, {"wrist": (64, 96, 3)})},
            r"images\.wrist in the checkpoint.*images\.color in the dataset",
        ),
        ({"shape": PolicyShape(6, 6, {"color": (48, 64, 3)})}, r"color .*\(48, 64, 3\).*\(64, 96, 3\)"),
        ({"shape": PolicyShape(6, 6, COLOR, environment_dim=4)}, r"environment_state .*\(4,\).*None"),
        (
            {"robot": Robot(("elbow", "b", "c", "d", "e", "f"))},
            r"joints are elbow, .* in the checkpoint, shoulder_pan, .* in the dataset",
        ),
    ],
)
def test_other_sizes_cameras_or_joints_are_refused(
    changes: dict[str, Any], words: str, golden: Dataset, trained: Checkpoint
) -> None:
    with pytest.raises(UserError, match=words):
        require_match(Policy(replace(trained, **changes)), golden)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"robot": Robot(None)}, None),  # joints without names are not compared
        ({"robot": Robot(fps=15)}, "trained at 15 fps, the dataset has 30"),
        ({"shape": PolicyShape(6, 6, {})}, "does not use observation.images.color"),
        (
            {
                "shape": PolicyShape(6, 6, {"wrist": (64, 96, 3)}),
                "rename_map": {"observation.images.color": "observation.images.wrist"},
            },
            None,
        ),
    ],
)
def test_what_differs_without_harm_is_at_most_warned_about(
    changes: dict[str, Any], said: str | None, golden: Dataset, trained: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    require_match(Policy(replace(trained, **changes)), golden)
    assert said in caplog.text if said else not caplog.records


def test_another_meaning_of_actions_is_refused(image_dataset: Path, trained: Checkpoint) -> None:
    dataset = edit_info(image_dataset, action={"info": {"action_meaning": "next_position"}})
    with pytest.raises(UserError, match="means delta in the checkpoint, next_position in the dataset"):
        require_match(Policy(trained), dataset)


def test_the_meaning_of_actions_is_read_and_never_guessed(
    golden: Dataset, image_dataset: Path, trained: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    silent = Policy(replace(trained, robot=Robot(golden.joint_names)))
    commands = edit_info(image_dataset, action={"info": {"action_meaning": "command"}})
    assert choose_meaning(None, silent, commands) == "command"
    with caplog.at_level(logging.INFO):
        assert choose_meaning(None, Policy(trained), golden) == "delta"  # the golden dataset does not say
    assert "the checkpoint does: delta" in caplog.text
    assert choose_meaning(None, silent, golden) is None
    assert choose_meaning("next_position", silent, golden) == "next_position"
    with pytest.raises(UserError, match="--action-meaning delta: the dataset says command"):
        choose_meaning("delta", silent, commands)


def test_a_dataset_without_a_mean_action_is_refused(image_dataset: Path, trained: Checkpoint) -> None:
    path = image_dataset / "meta" / "stats.json"
    stats = json.loads(path.read_text())
    del stats["action"]["mean"]
    path.write_text(json.dumps(stats))
    with pytest.raises(UserError, match=r"stats\.json has no mean of 6 actions"):
        require_match(Policy(trained), Dataset.open(image_dataset))


@pytest.mark.parametrize(
    ("flag", "numbers"),
    [(["1"], [1]), (["1", "0"], [1, 0]), (["0 1"], [0, 1]), (["0-1", "1"], [0, 1]), (["all"], [0, 1]), (None, [0, 1])],
)
def test_episodes_are_named_by_number_range_or_all(
    flag: list[str] | None, numbers: list[int], golden: Dataset, trained: Checkpoint
) -> None:
    assert [episode.number for episode in choose_episodes(flag, Policy(trained), golden)] == numbers


@pytest.mark.parametrize("flag", [["2"], ["0-3"], ["0", "7"]])
def test_a_named_episode_that_does_not_exist_is_refused(flag: list[str], golden: Dataset, trained: Checkpoint) -> None:
    with pytest.raises(UserError, match=r"episode [27] does not exist: .* has episodes 0 to 1"):
        choose_episodes(flag, Policy(trained), golden)


@pytest.mark.parametrize("flag", ["one", "-1", "3-1", "1,2", "0-", "9" * 5000])
def test_a_word_that_names_no_episode_is_refused(flag: str, golden: Dataset, trained: Checkpoint) -> None:
    with pytest.raises(UserError, match="expected numbers, a range such as 0-3, all or val"):
        choose_episodes([flag], Policy(trained), golden)


def test_the_environment_names_the_default_episodes(
    golden: Dataset, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EVAL_EPISODES", "1 2 3")
    assert [episode.number for episode in choose_episodes(None, Policy(trained), golden)] == [1]
    assert "leaving out 2, 3" in caplog.text
    assert [episode.number for episode in choose_episodes(["0"], Policy(trained), golden)] == [0]
    monkeypatch.setenv("EVAL_EPISODES", "5 6")
    with pytest.raises(UserError, match="episode 5 does not exist"):
        choose_episodes(None, Policy(trained), golden)


def test_val_takes_the_episodes_that_training_held_out(golden: Dataset, trained: Checkpoint) -> None:
    policy = Policy(replace(trained, train_config={"val_episodes": [1]}))
    assert [episode.number for episode in choose_episodes(["val"], policy, golden)] == [1]


@pytest.mark.parametrize("record", [{}, {"val_episodes": []}])
def test_val_is_refused_when_training_held_out_none(
    record: dict[str, Any], golden: Dataset, trained: Checkpoint
) -> None:
    with pytest.raises(UserError, match="held out none"):
        choose_episodes(["val"], Policy(replace(trained, train_config=record)), golden)


def test_episodes_the_policy_was_trained_on_are_named(
    golden: Dataset, trained: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    record = {"dataset": {"fingerprint": golden.fingerprint}, "val_episodes": [1]}
    choose_episodes(["all"], Policy(replace(trained, train_config=record)), golden)
    assert "not held out: 0" in caplog.text
    caplog.clear()
    chosen = choose_episodes(["val"], Policy(replace(trained, train_config=record | {"config": {}})), golden)
    assert [episode.number for episode in chosen] == [1]
    choose_episodes(["val"], Policy(replace(trained, train_config=record)), golden)
    assert not caplog.records


def test_the_device_is_the_flag_then_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EVAL_DEVICE", "cuda")
    assert (choose_device("cpu"), choose_device(None)) == ("cpu", "cuda")
    monkeypatch.setenv("EVAL_DEVICE", "tpu")
    with pytest.raises(UserError, match="EVAL_DEVICE=tpu: expected cpu or cuda"):
        choose_device(None)
    monkeypatch.delenv("EVAL_DEVICE")
    with caplog.at_level(logging.INFO):
        assert (choose_device(None) == "cpu") == ("no CUDA device" in caplog.text)


def test_a_folder_above_pretrained_model_is_taken_too(
    write_checkpoint: WriteCheckpoint, golden: Dataset, trained: Checkpoint
) -> None:
    folder = write_checkpoint()
    inputs = [open_inputs(path, golden.root, ["0"], "cpu") for path in (folder, folder.parent)]
    assert inputs[0].checkpoint_sha256 == inputs[1].checkpoint_sha256


@pytest.mark.parametrize(("val", "held_out"), [([1], False), ([0, 1], True), (None, None)])
def test_whether_training_saw_an_episode_is_known_when_it_was_recorded(
    val: list[int] | None, held_out: bool | None, golden: Dataset, write_checkpoint: WriteCheckpoint
) -> None:
    record = {} if val is None else {"dataset": {"fingerprint": golden.fingerprint}, "val_episodes": val}
    assert open_inputs(write_checkpoint(train_config=record), golden.root, ["all"], "cpu").held_out is held_out


def test_a_column_that_the_dataset_does_not_declare_is_named(tmp_path: Path) -> None:
    root = Path(shutil.copytree(GOLDEN / "dataset_image", tmp_path / "dataset"))
    change_info(root, lambda info: info["features"].pop("timestamp"))
    dataset = Dataset.open(root)
    with pytest.raises(UserError, match=r"info\.json declares no timestamp; convert the dataset again"):
        read_rows(dataset, dataset.episodes[0], ["timestamp"])
