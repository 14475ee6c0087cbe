"""--out takes one evaluation, whole, and never overwrites anything else."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli.command import UserError
from stage3_eval.metrics.summary import FORMAT
from stage3_eval.output import SUMMARY, WORK, new_results, read_finished, require_evaluation
from tests.conftest import ROOT
from tests.stage3_eval.summaries import make_summary


def fill(folder: Path, episodes: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(episodes):
        (folder / f"episode_{number:03d}.parquet").write_bytes(b"new")
    (folder / "summary.json").write_text(json.dumps({"format": FORMAT}))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "text"),
    [("notes.txt", "keep me"), ("summary.yaml", "another"), ("episode_000.parquet", "another tool's")],
)
def test_a_folder_with_anything_else_is_refused_by_name(name: str, text: str, tmp_path: Path) -> None:
    if name == "notes.txt":
        fill(tmp_path, 2)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"holds {name}, which does not belong to an earlier evaluation"):
        require_evaluation(tmp_path)


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ({"format": FORMAT, "format_version": 2}, ": format_version=2: expected 3$"),
        ([], ": format_version=None: expected 3$"),
        ({"format": FORMAT, "format_version": 3}, ": protocol is missing"),
        ({"format": "another", "format_version": 3}, ": format=another: "),
    ],
)
def test_a_foreign_damaged_or_earlier_summary_is_refused(summary: object, words: str, tmp_path: Path) -> None:
    assert read_finished(tmp_path / "out", make_summary([1.0])) is None
    fill(tmp_path / "out", 2)
    (tmp_path / "out" / "curves.png").touch()
    (tmp_path / "out" / SUMMARY).write_text(json.dumps(summary))
    with pytest.raises(
        UserError, match=f"not a summary of format version 3, evaluate again into another folder{words}"
    ):
        read_finished(tmp_path / "out", make_summary([1.0]))


def test_the_files_are_moved_into_the_folder_at_the_end(tmp_path: Path) -> None:
    with new_results(tmp_path / "out") as folder:
        fill(folder, 2)
        assert names(tmp_path / "out") == [WORK]
    assert names(tmp_path / "out") == ["episode_000.parquet", "episode_001.parquet", "summary.json"]
    assert names(tmp_path) == ["out"]


def test_a_failed_evaluation_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError), new_results(tmp_path / "out") as folder:
        fill(folder, 2)
        raise UserError("damaged")
    assert names(tmp_path / "out") == []


def test_a_killed_evaluation_starts_again_from_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out" / WORK, 1)
    (tmp_path / "out" / "episode_001.parquet").write_bytes(b"moved already")
    require_evaluation(tmp_path / "out")
    with new_results(tmp_path / "out") as folder:
        assert names(folder) == [".lock"]
        assert names(tmp_path / "out") == [WORK]


KILLED = """
import os, signal, sys
from pathlib import Path
from stage3_eval.output import new_results
from tests.stage3_eval.test_output import fill
def kill(event, args):
    if event == "os.rename" and str(args[1]).endswith("summary.json"):
        os.kill(os.getpid(), signal.SIGKILL)
with new_results(Path(sys.argv[1])) as folder:
    fill(folder, 3)
    sys.addaudithook(kill)
"""


def test_the_summary_is_moved_last(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == [WORK, *(f"episode_00{number}.parquet" for number in range(3))]
    assert SUMMARY in names(tmp_path / WORK)


def test_two_evaluations_into_one_folder_do_not_mix(tmp_path: Path) -> None:
    with (
        new_results(tmp_path / "out"),
        pytest.raises(UserError, match=r"process \d+ on \S+ is evaluating into it"),
        new_results(tmp_path / "out"),
    ):
        pass
