"""Files and folders appear whole under their final name, or not at all."""

import contextlib
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from common.cli.command import UserError
from common.storage.disk import default_cache_dir, require_free
from common.storage.files import (
    MANIFEST,
    atomic_path,
    locked,
    new_folder,
    read_json,
    remove_stale,
    require_ours,
    sha256,
    temporary_path,
    write_json,
)


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


@pytest.mark.skipif(not Path("/dev/shm").is_mount(), reason="/dev/shm is no mount point here")
def test_a_mount_point_is_refused_before_the_work() -> None:
    with (
        pytest.raises(UserError, match="/dev/shm is a mount point, which cannot be replaced"),
        new_folder(Path("/dev/shm")),
    ):
        pytest.fail("the work was done")


def test_the_manifest_holds_size_and_hash_of_every_file(tmp_path: Path) -> None:
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


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"file/run cannot be created: File exists"),
        new_folder(tmp_path / "file" / "run"),
    ):
        pass


@pytest.fixture(scope="module")
def dead_pid() -> int:
    command = [sys.executable, "-c", "import os; print(os.getpid())"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_temporaries_of_dead_processes_are_removed_and_those_of_live_ones_stay(tmp_path: Path, dead_pid: int) -> None:
    (tmp_path / f".tmp-run-{dead_pid}").mkdir()
    (tmp_path / f".tmp-a.json-{dead_pid}").touch()
    live = temporary_path(tmp_path / "run")
    live.mkdir()
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [live]


def test_an_interrupted_replacement_of_a_folder_is_undone(tmp_path: Path, dead_pid: int) -> None:
    for name in ("run", "other"):
        (tmp_path / f".tmp-{name}-{dead_pid}.old").mkdir()
    (tmp_path / "other").mkdir()
    remove_stale(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]


@pytest.mark.parametrize(("name", "is_ours"), [("sign", True), ("data", False), ("notes.txt", False)])
def test_a_folder_is_ours_by_its_sign_and_its_names(name: str, is_ours: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    require_ours(out, "result", sign="sign", names=("sign", "data"))
    out.mkdir()
    require_ours(out, "result", sign="sign", names=("sign", "data"))
    (out / name).touch()
    expected = (
        contextlib.nullcontext()
        if is_ours
        else pytest.raises(UserError, match=f"{out} holds {name}, which does not belong")
    )
    with expected:
        require_ours(out, "result", sign="sign", names=("sign", "data"))


def test_a_file_is_refused_as_a_folder_for_results(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="holds file, which does not belong to an earlier result"):
        require_ours(tmp_path / "file", "result")
    with pytest.raises(UserError, match="file is not a folder that may be written to"):
        require_ours(tmp_path / "file" / "out", "result")


def test_a_second_lock_on_a_folder_names_its_holder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match=f"in use by process {os.getpid()} on "), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_too_little_space_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bytes free, 1,000,000,000,000,000,000 are needed"):
        require_free(tmp_path / "not" / "yet", 10**18, "a test")


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match=r"x\.json cannot be read as JSON"):
        read_json(tmp_path / "x.json")


def test_a_user_without_a_home_has_a_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container that runs under a number which no password file knows."""

    def unknown(_uid: int) -> None:
        raise KeyError

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "bag2act"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert default_cache_dir() == Path(tempfile.gettempdir()) / "bag2act"
