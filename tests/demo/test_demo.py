"""`python -m demo` with few episodes and training steps."""

import json
import shutil
from pathlib import Path

import pytest

from common.cli.command import UserError
from demo.__main__ import main
from tests.conftest import SharedFolders, run_module

EPISODES = 8
SMALL = ["--episodes", EPISODES, "--override", "training.steps=2", "training.warmup_steps=1", "data.val_fraction=0.25"]


@pytest.fixture
def finished(shared: SharedFolders) -> Path:
    """The output folder of a small demo, with what it printed."""
    return shared.get("demo", run_demo) / "out"


def run_demo(folder: Path) -> None:
    done = run_module("demo", "--out", folder / "out", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "out" / "printed.txt").write_text(done.stdout)


def test_the_chain_ends_in_a_summary_of_both_loops(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["targets"] == 20
    assert 0 <= summary["reached"] <= 20
    assert summary["ratio_to_best_baseline"] > 0
    assert summary["images"].keys() == {"repeated", "passed_over", "lost", "unavoidable"}
    assert summary["images"]["repeated"] <= summary["images"]["lost"] + 2
    assert {"record", "convert", "train", "evaluate", "rollout", "all"} <= summary["took_s"].keys()


def test_what_is_printed_is_what_was_measured(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    printed = (finished / "printed.txt").read_text()
    assert f"{summary['images']['repeated']} repeated, {summary['images']['passed_over']} passed over; " in printed
    assert f"{summary['reached']} of 20 held-out targets" in printed
    assert "expected      20 of 20, the median of five seeds (17 to 20)" in printed
    assert f"{summary['ratio_to_best_baseline']:.2f} times the error of the best baseline" in printed


def test_every_result_that_is_printed_exists(finished: Path) -> None:
    printed = (finished / "printed.txt").read_text().partition("Results\n")[2]
    named = [Path(line.split()[0]) for line in printed.splitlines() if line.strip()]
    assert len(named) == 6
    beginnings = {".png": b"\x89PNG", ".mp4": b"\0\0\0 ftyp", ".html": b"<!doctype html>"}
    for path in named:
        assert path.read_bytes().startswith(beginnings[path.suffix])


def test_another_run_keeps_the_bags_and_clears_the_results(finished: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    bags = {path: path.stat().st_mtime_ns for path in (out / "bags").rglob("*")}
    done = run_module("demo", "--out", out, *SMALL, "training.stepz=1")  # ends where the training's settings are read
    assert "did you mean training.steps?" in done.stderr
    assert f"already recorded: {EPISODES} bags" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (out / "bags").rglob("*")} == bags
    assert not {"workflow", "rollout", "rollout-untrained"} & {path.name for path in out.iterdir()}


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds train, which does not belong to an earlier demo run"):
        main(["--out", str(tmp_path)])
    assert (tmp_path / "train" / "thesis.txt").read_text() == "mine"


def test_too_few_episodes_are_refused_before_anything_is_cleared(tmp_path: Path) -> None:
    done = run_module("demo", "--out", tmp_path / "out", "--episodes", 1)
    assert done.returncode == 2
    assert "--episodes 1: expected at least 2" in done.stderr
    assert not (tmp_path / "out").exists()
