"""--out is replaced as a whole or not at all, and never takes anything else with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.command import UserError
from stage3_eval.output import FORMAT, move_into, require_ours, result_folder
from tests.conftest import ROOT


def fill(folder: Path, episodes: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(episodes):
        (folder / f"episode_{number:03d}.parquet").write_bytes(b"new")
    (folder / "summary.json").write_text(json.dumps({"format": FORMAT}))


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


def test_an_earlier_evaluation_is_replaced_as_a_whole(tmp_path: Path) -> None:
    fill(tmp_path / "out", 5)
    with result_folder(tmp_path / "out") as folder:
        fill(folder, 1)
    assert names(tmp_path / "out") == ["episode_000.parquet", "summary.json"]
    assert names(tmp_path) == ["out"]


def test_an_error_leaves_the_earlier_evaluation_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path / "out", 5)
    with pytest.raises(UserError, match="damaged"), result_folder(tmp_path / "out") as folder:
        fill(folder, 1)
        raise UserError("damaged")
    assert len(names(tmp_path / "out")) == 6
    assert names(tmp_path) == ["out"]


def test_moving_file_by_file_leaves_no_file_of_the_earlier_evaluation(tmp_path: Path) -> None:
    fill(tmp_path / "out", 5)
    fill(tmp_path / "new", 1)
    move_into(tmp_path / "out", tmp_path / "new")
    assert names(tmp_path / "out") == ["episode_000.parquet", "summary.json"]


MOUNTED = """
import sys
from pathlib import Path
from stage3_eval.output import result_folder
from tests.stage3_eval.test_output import fill, names
out = Path(sys.argv[1])
for episodes in (5, 1):
    with result_folder(out) as folder:
        fill(folder, episodes)
assert names(out) == ["episode_000.parquet", "summary.json"], names(out)
try:
    with result_folder(out) as folder:
        fill(folder, 3)
        raise ValueError
except ValueError:
    assert len(names(out)) == 2, names(out)
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
