"""`make demo` in small: the whole chain, by the commands that users run."""

import json
from pathlib import Path

import pytest

from tests.conftest import run_module

SMALL = ["--episodes", "8", "--override", "training.steps=2", "training.warmup_steps=1", "data.val_fraction=0.25"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    for _ in range(2):  # the second run must find its way around the first one's results
        done = run_module("demo", "--out", out, *SMALL)
        assert done.returncode == 0, done.stdout + done.stderr
    (out / "printed.txt").write_text(done.stdout)
    return out


def test_the_chain_ends_in_a_summary_of_both_loops(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["targets"] == 20
    assert 0 <= summary["reached"] <= 20
    assert summary["ratio_to_best_baseline"] > 0
    assert {"record", "convert", "train", "evaluate", "rollout", "all"} <= summary["took_s"].keys()


def test_what_is_printed_is_what_was_measured(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    printed = (finished / "printed.txt").read_text()
    assert f"{summary['reached']} of 20 held-out targets" in printed
    assert f"{summary['ratio_to_best_baseline']:.2f} times the error of the best baseline" in printed


def test_everything_it_says_to_look_at_is_there(finished: Path) -> None:
    printed = (finished / "printed.txt").read_text().partition("Results\n")[2]
    named = [Path(line.split()[0]) for line in printed.splitlines() if line.strip()]
    assert len(named) == 5
    for path in named:
        expected = b"\x89png" if path.suffix == ".png" else b"<!doctype html>"
        assert path.read_bytes()[: len(expected)].lower() == expected


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "thesis.txt").write_text("mine")
    done = run_module("demo", "--out", tmp_path)
    assert done.returncode == 2
    assert "holds train, which is no output of the demo" in done.stderr
    assert (tmp_path / "train" / "thesis.txt").read_text() == "mine"
