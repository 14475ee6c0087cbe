"""Running the same command again goes on where it was, or says in one line why it cannot."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest

from common.cli.command import UserError
from stage2_train.train import train
from tests.stage2_train.tiny import VALIDATED, content, metrics, stopped_at, tiny_config, without_times, write_dataset


@pytest.mark.parametrize("step", [4, 8])
def test_a_resumed_run_is_the_uninterrupted_one(dataset: Path, whole: Path, tmp_path: Path, step: int) -> None:
    out = stopped_at(whole, step, tmp_path / "out")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "loss": 1')  # torn by the death
    train(tiny_config(dataset, out, *VALIDATED))
    assert content(out) == content(whole)
    assert without_times(out) == without_times(whole)


def test_a_log_line_after_a_checkpoint_in_its_middle_is_whole(dataset: Path, whole: Path, tmp_path: Path) -> None:
    out = stopped_at(whole, 4, tmp_path / "out")
    window = json.loads((out / "checkpoint_000004/training_state/log_window.json").read_text())
    assert window["steps"] == 1  # step 4, of the line that ends with step 6
    train(tiny_config(dataset, out, *VALIDATED))
    assert [row["step"] for row in metrics(out)] == [3, 5, 6, 9, 10, 12]


def test_a_finished_run_says_so_and_changes_nothing(
    dataset: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != ".lock" and path.is_file()}
    with caplog.at_level(logging.INFO):
        assert train(tiny_config(dataset, whole, *VALIDATED)) == whole / "checkpoint_000012"
    assert "finished already" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_longer_run_of_a_constant_rate_goes_on(dataset: Path, whole: Path, tmp_path: Path) -> None:
    out = stopped_at(whole, 12, tmp_path / "out")
    train(tiny_config(dataset, out, *VALIDATED, "training.steps=14"))
    assert (out / "checkpoint_000014").is_dir()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["training.lr=2e-3"], "training.lr 0.001 -> 0.002"),
        (["model.dropout=0.2", "training.seed=3"], "model.dropout 0.1 -> 0.2; training.seed 1000 -> 3"),
        (["training.batch_size=3"], "the global batch 4 -> 3"),
        (["training.scheduler=cosine", "training.warmup_steps=2"], "training.warmup_steps 500 -> 2"),
        (["data.val_fraction=0"], "data.val_fraction 0.34 -> 0.0"),
    ],
)
def test_a_change_that_would_have_changed_steps_already_done_is_refused(
    dataset: Path, whole: Path, changes: list[str], words: str
) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        train(tiny_config(dataset, whole, *VALIDATED, *changes))


def test_another_dataset_is_refused_but_a_copy_is_not(dataset: Path, whole: Path, tmp_path: Path) -> None:
    out = stopped_at(whole, 8, tmp_path / "out")
    other = write_dataset(tmp_path / "other", lengths=(9, 12, 11))
    with pytest.raises(UserError, match=r"the content of .*other"):
        train(tiny_config(other, out, *VALIDATED))
    copied = Path(shutil.copytree(dataset, tmp_path / "copied", copy_function=shutil.copyfile))  # with other times
    train(tiny_config(copied, out, *VALIDATED))
    assert without_times(out) == without_times(whole)


def test_what_changes_no_step_may_differ(dataset: Path, whole: Path, tmp_path: Path) -> None:
    out = stopped_at(whole, 8, tmp_path / "out")
    free = ("training.save_freq=3", "training.num_workers=0", "data.frame_cache=none", "wandb.project=other")
    train(tiny_config(dataset, out, *VALIDATED, *free))
    assert {p.name for p in out.glob("checkpoint_*")} >= {"checkpoint_000009", "checkpoint_000012"}


def test_never_refuses_a_folder_with_checkpoints(dataset: Path, whole: Path) -> None:
    with pytest.raises(UserError, match=r"already holds checkpoint_000012 and training\.resume=never"):
        train(tiny_config(dataset, whole, *VALIDATED, "training.resume=never"))


def test_a_path_starts_a_branch_in_another_folder(dataset: Path, whole: Path, tmp_path: Path) -> None:
    branch = tmp_path / "branch"
    train(tiny_config(dataset, branch, *VALIDATED, f"training.resume={whole / 'checkpoint_000008'}"))
    assert without_times(branch) == [row for row in without_times(whole) if row["step"] > 8]


def test_only_the_newest_checkpoints_are_kept(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(tiny_config(dataset, out, "training.save_freq=3", "training.keep_last=2"))
    assert sorted(p.name for p in out.glob("check*")) == ["checkpoint_000009", "checkpoint_000012"]
    assert not list(out.glob(".tmp-*"))


def test_a_checkpoint_comes_also_by_the_clock(dataset: Path, tmp_path: Path) -> None:
    train(tiny_config(dataset, tmp_path / "out", "training.steps=3", "training.save_every_min=1e-9"))
    names = sorted(p.name for p in (tmp_path / "out").glob("checkpoint_*"))
    assert names == ["checkpoint_000001", "checkpoint_000002", "checkpoint_000003"]
