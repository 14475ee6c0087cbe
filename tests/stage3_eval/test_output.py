"""--out takes one evaluation, whole or to be gone on with, and nothing else is ever lost in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli.command import UserError
from stage3_eval.output import FORMAT, WORK, finished, publish, require_ours, unfinished
from tests.conftest import ROOT

IDENTITY = {"checkpoint": "a", "episodes": [0, 1]}


def fill(folder: Path, episodes: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(episodes):
        (folder / f"episode_{number:03d}.parquet").write_bytes(b"new")
    (folder / "summary.json").write_text(json.dumps({"format": FORMAT, "evaluation": IDENTITY}))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_an_empty_and_an_evaluated_folder_may_be_written(tmp_path: Path) -> None:
    require_ours(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    require_ours(tmp_path / "empty")
    fill(tmp_path / "ours", 2)
    require_ours(tmp_path / "ours")


@pytest.mark.parametrize(
    ("name", "text"),
    [("notes.txt", "keep me"), ("summary.json", '{"format": "another"}'), ("episode_000.parquet", "another tool's")],
)
def test_a_folder_with_anything_else_is_refused_by_name(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        require_ours(tmp_path)


def test_a_foreign_file_beside_an_earlier_evaluation_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "out", 2)
    (tmp_path / "out" / "notes.txt").write_text("keep me")
    with pytest.raises(UserError, match=r"notes\.txt"):
        require_ours(tmp_path / "out")


def test_a_file_is_no_folder_for_results(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        require_ours(tmp_path / "file")


def test_the_same_evaluation_is_recognized_and_another_refused_naming_what_differs(tmp_path: Path) -> None:
    assert finished(tmp_path / "out", IDENTITY) is None
    fill(tmp_path / "out", 2)
    summary = finished(tmp_path / "out", IDENTITY)
    assert summary is not None
    assert summary["evaluation"] == IDENTITY
    with pytest.raises(UserError, match=r"another evaluation: its episodes is \[0, 1\], now it is \[2\]"):
        finished(tmp_path / "out", IDENTITY | {"episodes": [2]})


def test_what_is_written_comes_into_the_folder_at_the_end_and_nothing_else_is_left(tmp_path: Path) -> None:
    with unfinished(tmp_path / "out", IDENTITY) as folder:
        fill(folder, 2)
        (folder / "scores_000.npz").write_bytes(b"")
        assert names(tmp_path / "out") == [WORK]
    assert names(tmp_path / "out") == ["episode_000.parquet", "episode_001.parquet", "summary.json"]
    assert names(tmp_path) == ["out"]


def test_a_stopped_evaluation_goes_on_with_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), unfinished(tmp_path / "out", IDENTITY) as folder:
        (folder / "episode_000.parquet").write_bytes(b"done")
        raise KeyboardInterrupt
    require_ours(tmp_path / "out")
    with unfinished(tmp_path / "out", IDENTITY) as folder:
        assert (folder / "episode_000.parquet").read_bytes() == b"done"


def test_what_another_evaluation_left_behind_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), unfinished(tmp_path / "out", IDENTITY) as folder:
        (folder / "episode_000.parquet").write_bytes(b"done")
        (tmp_path / "out" / "episode_001.parquet").write_bytes(b"moved already")
        raise KeyboardInterrupt
    with unfinished(tmp_path / "out", IDENTITY | {"checkpoint": "b"}) as folder:
        assert not list(folder.glob("*.parquet"))
    assert names(tmp_path / "out") == []


def test_the_summary_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "work", 3)
    (tmp_path / "out").mkdir()
    moved: list[str] = []
    replace = Path.replace

    def record(path: Path, target: Path) -> Path:
        moved.append(path.name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", record)
    publish(tmp_path / "work", tmp_path / "out")
    assert len(moved) == 4
    assert moved[-1] == "summary.json"


def test_two_evaluations_into_one_folder_do_not_mix(tmp_path: Path) -> None:
    with (
        unfinished(tmp_path / "out", IDENTITY),
        pytest.raises(UserError, match=r"process \d+ on \S+ is evaluating into it"),
        unfinished(tmp_path / "out", IDENTITY),
    ):
        pass


MOUNTED = """
import sys
from pathlib import Path
from stage3_eval.output import finished, unfinished
from tests.stage3_eval.test_output import IDENTITY, fill, names
out = Path(sys.argv[1])
with unfinished(out, IDENTITY) as folder:
    fill(folder, 1)
assert names(out) == ["episode_000.parquet", "summary.json"], names(out)
assert finished(out, IDENTITY)
"""


def test_a_mount_point_is_filled_too(tmp_path: Path) -> None:
    """A container's output folder cannot be renamed; only a machine that lets us mount can show it."""
    mount = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        'mount -t tmpfs none "$0" && exec "$@"',
        str(tmp_path),
    ]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    command = [*mount, sys.executable, "-c", MOUNTED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
