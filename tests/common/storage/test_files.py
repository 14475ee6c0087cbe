"""Files and folders appear whole under their final name, or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli.command import UserError
from common.storage.files import (
    MANIFEST,
    atomic_path,
    new_folder,
    read_json,
    remove_stale,
    require_free,
    sha256,
    write_json,
)
from tests.conftest import ROOT

REPLACE_FOR_EVER = """
import sys
from pathlib import Path
from common.storage.files import new_folder

for number in range(10**6):
    with new_folder(Path(sys.argv[1]), manifest=False) as folder:
        (folder / str(number)).touch()
"""


def test_a_failed_write_leaves_the_old_content_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(target) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_folder_leaves_the_old_folder_and_no_temporary(tmp_path: Path) -> None:
    with new_folder(tmp_path / "run") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "run") as folder:
        (folder / "a").write_text("new")
        raise RuntimeError
    assert (tmp_path / "run" / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_the_manifest_names_size_and_hash_of_every_file(tmp_path: Path) -> None:
    with new_folder(tmp_path / "run") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("content")
    manifest = read_json(tmp_path / "run" / MANIFEST)
    assert manifest == {"sub/a": {"bytes": 7, "sha256": sha256(tmp_path / "run" / "sub" / "a")}}


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with new_folder(tmp_path / "run", manifest=False) as folder:
            (folder / name).touch()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["second"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_the_name_of_a_folder_is_never_free_while_it_is_replaced(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    writer = subprocess.Popen([sys.executable, "-c", REPLACE_FOR_EVER, str(run)], cwd=ROOT)
    try:
        changes, last = 0, 0
        while changes < 20:  # a new inode for each replacement; a free name would raise
            now = run.stat().st_ino
            changes, last = changes + (now != last), now
    finally:
        writer.kill()
        writer.wait()


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"file/run cannot be made: File exists"),
        new_folder(tmp_path / "file" / "run"),
    ):
        pass


def test_temporaries_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    gone = [tmp_path / f".tmp-run-{dead.stdout.strip()}", tmp_path / f".a.json.{dead.stdout.strip()}.tmp"]
    stays = tmp_path / f".tmp-run-{os.getpid()}"
    gone[0].mkdir()
    gone[1].touch()
    stays.mkdir()
    remove_stale(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [stays.name]


def test_a_dead_process_that_nobody_asked_after_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays in the table of processes
        (tmp_path / f".tmp-run-{process.pid}").mkdir()
        remove_stale(tmp_path)
        assert not list(tmp_path.iterdir())


def test_too_little_space_is_refused_with_both_figures(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bytes free, 1,000,000,000,000,000,000 are needed"):
        require_free(tmp_path / "not" / "yet", 10**18, "a test")


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match=r"x\.json cannot be read as JSON"):
        read_json(tmp_path / "x.json")
