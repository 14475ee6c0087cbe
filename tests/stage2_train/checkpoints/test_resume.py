"""Running the same command again resumes the training, or says in one line why it cannot."""

import logging
import re
import shutil
from pathlib import Path

import pytest

from common.act.runs import list_checkpoints
from common.cli.command import EXIT_USER, UserError
from common.cli.config import load
from common.lerobot.dataset import Dataset
from stage2_train.checkpoints.resume import find_resume_point
from stage2_train.config import TrainConfig
from stage2_train.train import train
from tests.reliability.harness import Warm
from tests.stage2_train.tiny import (
    VALIDATED,
    finish,
    start,
    stderr,
    stopped_at,
    tiny_config,
    train_as,
    without_times,
    write_dataset,
)

pytestmark = pytest.mark.integration


def test_a_finished_run_reports_so_and_changes_nothing(
    dataset: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != ".lock" and path.is_file()}
    with caplog.at_level(logging.INFO):
        assert train(tiny_config(dataset, whole, *VALIDATED)) == whole / "checkpoint_000012"
    assert "already finished" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_run_with_a_constant_rate_can_be_extended(dataset: Path, whole: Path, tmp_path: Path) -> None:
    out = stopped_at(whole, 12, tmp_path / "out")
    train(tiny_config(dataset, out, *VALIDATED, "training.steps=14"))
    assert (out / "checkpoint_000014").is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.lr=2e-3"], "training.lr 0.001 -> 0.002"),
        (["model.dropout=0.2", "training.seed=3"], "model.dropout 0.1 -> 0.2; training.seed 1000 -> 3"),
        (["training.batch_size=3"], "the global batch 4 -> 3"),
        (["training.scheduler=cosine", "training.warmup_steps=2"], "training.warmup_steps 500 -> 2"),
        (["data.val_fraction=0"], "data.val_fraction 0.34 -> 0.0"),
    ],
)
def test_a_setting_that_would_have_changed_steps_already_done_is_refused(
    dataset: Path, whole: Path, changes: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        train(tiny_config(dataset, whole, *VALIDATED, *changes))


def test_a_refusal_names_the_way_out(dataset: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"choose another training\.output_dir, where model\.init_from=") as refusal:
        train(tiny_config(dataset, whole, *VALIDATED, "training.lr=2e-3"))
    base = re.search(r"model\.init_from=\S+", str(refusal.value))
    assert base
    train(tiny_config(dataset, tmp_path / "out", *VALIDATED, "training.lr=2e-3", base[0]))


def test_two_processes_are_refused_by_one_line(warm: Warm, dataset: Path, whole: Path, tmp_path: Path) -> None:
    out = stopped_at(whole, 12, tmp_path / "out")
    assert finish(start(warm, dataset, out, *VALIDATED, "training.lr=2e-3", world_size=2)) == [EXIT_USER, EXIT_USER]
    assert "training.lr 0.001 -> 0.002" in stderr(out)
    assert "error" not in stderr(out, 1)


def test_another_or_changed_dataset_is_refused_but_a_copy_is_not(dataset: Path, whole: Path, tmp_path: Path) -> None:
    out = stopped_at(whole, 8, tmp_path / "out")
    other = write_dataset(tmp_path / "other", lengths=(9, 12, 11))
    with pytest.raises(UserError, match=r"the content of .*other"):
        train(tiny_config(other, out, *VALIDATED))
    changed = Path(shutil.copytree(dataset, tmp_path / "changed"))
    (changed / "meta" / "stats.json").write_text((dataset / "meta" / "stats.json").read_text() + "\n")
    with pytest.raises(UserError, match=r"the content of .*changed"):
        train(tiny_config(changed, out, *VALIDATED))
    copied = Path(shutil.copytree(dataset, tmp_path / "copied", copy_function=shutil.copyfile))  # with other times
    train(tiny_config(copied, out, *VALIDATED))
    assert without_times(out) == without_times(whole)


def test_settings_that_change_no_step_may_differ(dataset: Path, whole: Path, tmp_path: Path) -> None:
    out = stopped_at(whole, 8, tmp_path / "out")
    free = ("training.save_freq=3", "training.num_workers=0", "data.frame_cache=none", "wandb.project=other")
    train(tiny_config(dataset, out, *VALIDATED, *free))
    assert {p.name for p in out.glob("checkpoint_*")} >= {"checkpoint_000009", "checkpoint_000012"}


def test_two_processes_save_once_when_the_time_has_come(warm: Warm, dataset: Path, tmp_path: Path) -> None:
    every_step = ("training.save_every_min=1e-9", "training.save_freq=100", "training.steps=7")
    out = train_as(2, warm, dataset, tmp_path / "out", *every_step)
    assert [step for step, _ in list_checkpoints(out)] == [2, 4, 6, 7]  # the processes agree one step later


def test_resume_never_refuses_a_folder_with_checkpoints(dataset: Path, whole: Path) -> None:
    with pytest.raises(UserError, match=r"already holds checkpoint_000012 and training\.resume=never"):
        train(tiny_config(dataset, whole, *VALIDATED, "training.resume=never"))


def test_resume_from_a_path_branches_off_into_another_folder(dataset: Path, whole: Path, tmp_path: Path) -> None:
    branch = tmp_path / "branch"
    train(tiny_config(dataset, branch, *VALIDATED, f"training.resume={whole / 'checkpoint_000008'}"))
    assert without_times(branch) == [row for row in without_times(whole) if row["step"] > 8]


def test_a_branch_resumes_from_what_it_has_saved_itself(dataset: Path, whole: Path, tmp_path: Path) -> None:
    branch = stopped_at(whole, 8, tmp_path / "branch")
    fingerprint = Dataset.open(dataset).fingerprint
    for origin, found in ((whole / "checkpoint_000004", 8), (branch / "checkpoint_000004", 4)):
        point = find_resume_point(tiny_config(dataset, branch, *VALIDATED, f"training.resume={origin}"), fingerprint, 1)
        assert point is not None
        assert point.folder == branch / f"checkpoint_{found:06d}"


@pytest.mark.parametrize(("word", "meaning"), [("true", "auto"), ("false", "never"), ("auto", "auto")])
def test_true_and_false_stand_for_auto_and_never(word: str, meaning: str) -> None:
    assert load(TrainConfig, None, [f"training.resume={word}"]).training.resume == meaning


@pytest.mark.parametrize(
    ("below", "step"), [("", 12), ("checkpoint_000008", 8), ("checkpoint_000008/pretrained_model", 8)]
)
def test_resume_takes_a_run_a_checkpoint_or_its_policy(
    below: str, step: int, dataset: Path, whole: Path, tmp_path: Path
) -> None:
    config = tiny_config(dataset, tmp_path / "branch", *VALIDATED, f"training.resume={whole / below}")
    point = find_resume_point(config, Dataset.open(dataset).fingerprint, 1)
    assert point is not None
    assert point.folder == whole / f"checkpoint_{step:06d}"


def test_only_the_newest_checkpoints_are_kept(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(tiny_config(dataset, out, "training.save_freq=3", "training.keep_last=2"))
    assert sorted(p.name for p in out.glob("check*")) == ["checkpoint_000009", "checkpoint_000012"]
    assert not list(out.glob(".tmp-*"))


def test_checkpoints_are_also_saved_by_time(dataset: Path, tmp_path: Path) -> None:
    train(tiny_config(dataset, tmp_path / "out", "training.steps=3", "training.save_every_min=1e-9"))
    names = sorted(p.name for p in (tmp_path / "out").glob("checkpoint_*"))
    assert names == ["checkpoint_000001", "checkpoint_000002", "checkpoint_000003"]
