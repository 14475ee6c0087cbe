"""Atomic files and folders, locks and manifests: a final name holds everything or nothing, whenever the process is killed.

A file or folder is built as `.tmp-<name>-<pid>` beside its final name, flushed to disk and renamed. A folder may carry a
`manifest.json`, written last, with the size and sha256 of each of its files.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from common.cli.command import UserError, one_line
from common.cli.validation import validate
from common.storage.disk import full_disk_named, nearest_existing

MANIFEST = "manifest.json"
LOCK = ".lock"
log = logging.getLogger(__name__)
_REPLACED = ".old"  # ends the temporary name of a folder whose name another one is about to take
_TEMPORARY = re.compile(rf"\.tmp-(?P<name>.+)-(?P<pid>\d+)(?P<replaced>{re.escape(_REPLACED)})?")


class FileDigest(BaseModel):
    """A file's entry in a manifest."""

    model_config = ConfigDict(extra="forbid")

    bytes: int
    sha256: str


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: readers see the old file or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there is renamed to `path` when the block succeeds."""
    temporary = temporary_path(path)
    try:
        with full_disk_named(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; raises ValueError for NaN and infinity, which JSON lacks.

    File names that are not UTF-8 are written with JSON escapes and are read back unchanged.
    """
    text = json.dumps(value, indent=4, allow_nan=False, ensure_ascii=False) + "\n"
    write_file(path, text.encode(errors="backslashreplace"))


def read_json(path: Path) -> Any:
    """Read a JSON file; raises UserError naming the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error


@contextlib.contextmanager
def new_folder(path: Path, manifest: bool = True) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `path` when the block succeeds, and removed when it fails.

    An existing `path` is replaced: call `require_ours` first. With `manifest`, size and sha256 of every file are recorded.
    Raises UserError when the folder cannot be created.
    """
    if path.is_mount():  # such as a volume of a container
        raise UserError(f"{path} is a mount point, which cannot be replaced; choose a folder below it")
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        shutil.rmtree(temporary, ignore_errors=True)  # a restarted container gives the same pids again
        temporary.mkdir()
    except OSError as error:
        raise UserError(f"{path} cannot be created: {error.strerror}; choose another folder") from error
    try:
        with full_disk_named(path):
            yield temporary
            if manifest:
                write_json(
                    temporary / MANIFEST, {name: dict(digest) for name, digest in describe_folder(temporary).items()}
                )
            for folder, _, names in os.walk(temporary, topdown=False):
                for name in names:
                    sync(Path(folder, name))
                sync(Path(folder))
            _replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def describe_folder(folder: Path) -> dict[str, FileDigest]:
    """Return size and sha256 of every file below `folder`, by relative name, in sorted order.

    Left out is a README.md, the card: it has blanks that a person fills in.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: FileDigest(bytes=path.stat().st_size, sha256=sha256(path))
        for name, path in sorted(paths.items())
        if path.name not in (MANIFEST, "README.md")
    }


def find_damage(folder: Path, below: str = "", suffix: str = "") -> str | None:
    """Compare a folder with its manifest and return the first difference, None when there is none.

    Only files whose relative names begin with `below` and end with `suffix` are read.
    """
    try:
        manifest = validate(dict[str, FileDigest], read_json(folder / MANIFEST), f"{MANIFEST} is damaged: ")
        for name, digest in manifest.items():
            path = folder / name
            if not (name.startswith(below) and name.endswith(suffix)):
                continue
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != digest.bytes or sha256(path) != digest.sha256:
                return f"{name} is not what {MANIFEST} says"
    except (UserError, OSError) as error:
        return one_line(error)
    return None


@contextlib.contextmanager
def locked(folder: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold a lock on `folder`, which is created if it is missing, for as long as the block runs.

    The kernel releases the lock when its holder dies. Raises UserError when another process holds it: with `refusal`,
    where {holder} stands for that process's id and host, or with a general text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(path, blocking=False))
        except Timeout:
            text = (
                refusal or f"{folder} is in use by process {{holder}}; wait for it, stop it, or choose another folder"
            )
            raise UserError(text.replace("{holder}", path.read_text().strip() or "?")) from None
        with full_disk_named(path):
            path.write_text(f"{os.getpid()} on {socket.gethostname()}")
        yield


@contextlib.contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, which is created if it is missing; wait while another process, which does `what`, has it."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for another process that %s", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """Return the hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_path(path: Path) -> Path:
    """Return the temporary name beside `path` that this process uses until the content of `path` is complete."""
    return path.with_name(f".tmp-{path.name}-{os.getpid()}")


def remove_stale(folder: Path) -> None:
    """Remove the temporaries in `folder` that belong to dead processes.

    A folder whose replacement was interrupted between its two renames gets its name back.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or _is_alive(int(match["pid"])):
            continue
        if match["replaced"] and not (folder / match["name"]).exists():
            path.rename(folder / match["name"])
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Rename a folder, then remove it, so that a kill never leaves part of its content under its name."""
    doomed = temporary_path(path)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def require_ours(
    folder: Path, what: str, flag: str = "--out", sign: str | None = None, names: Sequence[str] = ("*",)
) -> None:
    """Raise UserError unless results may be written into `folder`, so that nobody else's files are ever replaced.

    The folder must be missing, empty, or an earlier result of this command: it has the file `sign`, a relative name, and
    every name in it matches one of the patterns `names`. `what` is what the message calls such a result.
    """
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [folder.name] * folder.exists()
    foreign = [name for name in found if not any(fnmatch(name, pattern) for pattern in names)]
    if not foreign and sign is not None and not (folder / sign).is_file():
        foreign = found
    if foreign or folder.is_file():
        raise UserError(
            f"{flag} {folder} holds {(foreign or found)[0]}, which does not belong to an earlier {what}; "
            "choose another folder"
        )
    parent = nearest_existing(folder)
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise UserError(f"{flag} {folder} cannot be created: {parent} is not a folder that may be written to")


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # FUSE and SMB cannot flush a folder
            raise
    finally:
        os.close(handle)


def _replace_folder(temporary: Path, path: Path) -> None:
    """Rename a complete folder to `path`, replacing a folder there; `remove_stale` undoes a kill between the renames."""
    replaced = temporary.with_name(temporary.name + _REPLACED)
    if path.exists():
        path.rename(replaced)
    temporary.rename(path)
    sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
