"""Bytes in, whole files and folders out: under a final name stands either everything or nothing, whatever kills us.

A file is written beside its name, flushed to disk and renamed. A folder is built as `.tmp-<name>-<pid>`, gets a
`manifest.json` with the size and sha256 of each file last, and is renamed.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from common.cli.command import UserError
from common.storage.mounts import network_mount

MANIFEST = "manifest.json"
LOCK = ".lock"
CHUNK_BYTES = 1 << 20
log = logging.getLogger(__name__)
_TEMPORARY = re.compile(r"^\.tmp-(?P<name>.+)-(?P<pid>\d+)$|^\.(?P<file>.+)\.(?P<fpid>\d+)\.tmp$")


class DiskFullError(UserError):
    """A disk has no room left; the text names the place and how many bytes were free."""


def write_file(path: Path, data: bytes) -> None:
    """Write `data` under `path` at once: readers see the old file or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there takes the name when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with full_disk_named(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN is refused because JSON has none.

    What of a file's name is no UTF-8 becomes JSON's own escape, as which it is read again.
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
    """Yield a temporary folder that becomes `path`, complete, when the block ends well, and vanishes when it does not.

    An existing `path` is replaced: the caller has made sure that it may be. Raises UserError when nothing can be made
    there.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        shutil.rmtree(temporary, ignore_errors=True)  # a restarted container gives the same pids again
        temporary.mkdir()
    except OSError as error:
        raise UserError(f"{path} cannot be made: {error.strerror}; choose another folder") from error
    try:
        with full_disk_named(path):
            yield temporary
            if manifest:
                write_json(temporary / MANIFEST, describe_folder(temporary))
            for folder, _, names in os.walk(temporary, topdown=False):
                for name in names:
                    sync(Path(folder, name))
                sync(Path(folder))
            _take_name(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def describe_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and sha256 of every file below `folder`, by relative name, in sorted order."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256(folder / n)} for n in names if n != MANIFEST}


def find_damage(folder: Path, below: str = "", suffix: str = "") -> str | None:
    """Return what is wrong with a folder that has a manifest, None when every file has the size and sha256 it should.

    Only files whose relative names begin with `below` and end with `suffix` are looked at.
    """
    try:
        manifest = read_json(folder / MANIFEST)
        for name, wanted in manifest.items():
            path = folder / name
            if not (name.startswith(below) and name.endswith(suffix)):
                continue
            if not path.is_file():
                return f"{name} is missing"
            # The size first, because it costs nothing.
            if path.stat().st_size != wanted["bytes"] or sha256(path) != wanted["sha256"]:
                return f"{name} is not what {MANIFEST} says"
    except UserError as error:
        return str(error)
    except (AttributeError, KeyError, TypeError, OSError) as error:
        return f"{MANIFEST} is damaged: {error}"
    return None


@contextlib.contextmanager
def locked(folder: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold a folder, made if need be, for this process alone; raises UserError with `refusal`, {holder} being who has it.

    The kernel gives the lock back when its holder dies, however that happens. On a network file system, where locks,
    renames and flushes may mean less, one line says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount = network_mount(folder)
    if mount:
        _say_once(
            f"{mount.place} is {mount.kind} from {mount.source}: results there are only as safe as it keeps renames and "
            "flushes; if it can lose them, write to a local disk and copy"
        )
    with (folder / LOCK).open("a+") as file:
        if not _lock(file):
            file.seek(0)
            holder = file.read().strip()
            text = (
                refusal or f"{folder} is in use by process {{holder}}; wait for it, stop it, or choose another folder"
            )
            raise UserError(text.replace("{holder}", holder or "?"))
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextlib.contextmanager
def exclusive_lock(lock: Path, what: str) -> Iterator[None]:
    """Hold the file `lock`, made if need be, for this process alone; while another has it, which does `what`, wait."""
    with lock.open("a") as file:
        if not _lock(file):
            log.info("waiting for another process that %s", what)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock(file: IO[str]) -> bool:
    """Lock an open file, unless another process has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems have no locks
        place = Path(file.name).parent
        log.warning("%s cannot be locked (%s): make sure that nothing else writes there", place, error.strerror)
    return True


def sha256(path: Path) -> str:
    """Return the hex sha256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def remove_stale(folder: Path) -> None:
    """Remove temporaries in `folder` that a process which is gone has left behind."""
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _TEMPORARY.match(path.name)
        if match and not _is_alive(int(match["pid"] or match["fpid"])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def nearest_existing(path: Path) -> Path:
    """Return `path`, or the nearest of its parents that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def free_bytes(path: Path) -> int:
    """Return how much room is left on the disk that holds `path`, or would."""
    return shutil.disk_usage(nearest_existing(path)).free


def require_free(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise UserError naming both figures when the disk that holds `folder` cannot take `needed_bytes` more."""
    left_bytes = free_bytes(folder)
    if left_bytes < needed_bytes:
        raise UserError(
            f"disk too full for {what}: {nearest_existing(folder)} has {left_bytes:,} bytes free, {needed_bytes:,} are needed; "
            "free some space or choose another folder"
        )


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Raise DiskFullError when the disk that holds `path` fills up; the system's own error does not name the place."""
    before_bytes = free_bytes(path)
    try:
        yield
    except Exception as error:
        # Libraries in C and Rust hand the system's words on, not its number.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise DiskFullError(
            f"disk full: {path} needs more than the {before_bytes:,} bytes that were free there; "
            "free some space or choose another folder"
        ) from error


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, where its file system can do that; where it cannot, one line says so."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
        why = error.strerror
        _say_once(f"the file system of {path.parent} cannot flush ({why}): a power cut may lose what was just written")
    finally:
        os.close(handle)


@functools.cache
def _say_once(text: str) -> None:
    log.warning("%s", text)


def _take_name(temporary: Path, path: Path) -> None:
    if path.exists() and not _exchange(temporary, path):
        # Two renames instead of one removal: at no moment is the old content half gone under the final name.
        old = path.with_name(f".tmp-{path.name}.old-{os.getpid()}")
        path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    elif not path.exists():
        temporary.rename(path)
    sync(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names at once, so that a kill leaves the old content or the new one; False where Linux cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE (renameat2(2))
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # one that is dead keeps its number until its parent asks how it ended, which PID 1 of a container may never do
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:  # gone meanwhile, or a system without /proc: the next run looks again
        return True
