"""One blob in; its verified bytes under its own name below the folder for downloads, or why it cannot be had, out.

What is not whole yet is called .NAME.TAG.part, where TAG stands for the blob's version (ETag): the next run goes on
where this one was cut off, and never joins two versions. .NAME.etag tells which version a whole file is.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import shutil
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from common.cli.command import TransientError, UserError
from common.storage.files import sync, write_file
from stage1_convert.sources import azure_service as service
from stage1_convert.sources.azure_client import CHUNK_BYTES
from stage1_convert.sources.azure_service import (
    BlobError,
    ChangedError,
    RemoteFile,
    ShortError,
    describe,
    translate_errors,
)

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

MAX_CHANGES = 2
LEAST_BYTES = 256 << 10
MAX_NAME_BYTES = 240  # file systems take 255; ours are longer by a tag


class StoppedError(Exception):
    """The download was called off."""


def check_places(places: Iterable[str]) -> None:
    """Refuse names that would leave the folder, or that cannot stand beside each other in it.

    Raises UserError with the name escaped.
    """
    seen: dict[str, str] = {}
    for place in places:
        for spelling in (place, unquote(place)):
            parts = spelling.split("/")
            if any(part in ("", ".", "..") for part in parts):
                raise _unfit(place, "an empty part or dots alone")
            if "\\" in spelling or any(unicodedata.category(sign)[0] == "C" for sign in spelling):
                raise _unfit(place, "a backslash or a control character")
            if any(len(part.encode()) > MAX_NAME_BYTES for part in parts) or len(spelling.encode()) > 1024:
                raise _unfit(place, f"more than {MAX_NAME_BYTES} bytes")
            if len(parts[0]) > 1 and parts[0][1] == ":":
                raise _unfit(place, "a drive")
        same = unicodedata.normalize("NFC", place).casefold()
        if same in seen:
            raise UserError(f"the blobs {seen[same]!a} and {place!a} differ only in case or spelling; rename one")
        seen[same] = place
    for place in seen:
        folders = place.split("/")[:-1]
        for depth in range(1, len(folders) + 1):
            if "/".join(folders[:depth]) in seen:
                raise UserError(f"the blob {'/'.join(folders[:depth])!a} has the name of a folder; rename it")


def _unfit(place: str, what: str) -> UserError:
    return UserError(f"the blob {place!a} has no name for a file: it holds {what}; rename or remove it")


def download(client: "ContainerClient", file: RemoteFile, root: Path, stop: threading.Event) -> Path:
    """Bring a blob down, or what is missing of it; returns the file, whole and verified.

    Raises BlobError when it cannot be had, UserError when none can, TransientError when it may be later, StoppedError when
    `stop` is set.
    """
    target = _make_room(root, file.place)
    failures = changes = losses = 0
    while not _is_here(file, target):
        part = _part_of(target, file)
        before = part.stat().st_size if part.exists() else 0
        try:
            with _disk_named(file, part, root):
                with translate_errors(f"blob {file.blob}"):
                    _fetch(client, file, part, max(CHUNK_BYTES >> losses, LEAST_BYTES), stop)
                _verify(file, part)
                _take_name(file, part, target)
            return target
        except ChangedError as error:
            part.unlink(missing_ok=True)
            changes += 1
            if changes > MAX_CHANGES:
                raise BlobError(f"{error}, {changes} times in a row; convert it when it is complete") from None
            with translate_errors(f"blob {file.blob}"):
                file = describe(client.get_blob_client(file.blob).get_blob_properties(), file.blob, file.place)
        except TransientError as error:
            losses += 1  # a line that breaks again and again gets smaller pieces through
            grown = part.exists() and part.stat().st_size > before
            failures = 1 if grown else failures + 1
            if failures >= service.ATTEMPTS:
                raise BlobError(str(error)) if isinstance(error, ShortError) else error from None
            if stop.wait(service.FIRST_PAUSE_S * 2 ** (failures - 1) * random.uniform(0.5, 1.0)):
                raise StoppedError from error
    return target


@contextlib.contextmanager
def _disk_named(file: RemoteFile, part: Path, root: Path) -> Iterator[None]:
    """Say what the disk has no room for, and what is a link; the system's own errors name neither."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{part} is a link, and downloads do not follow links; remove it") from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        left = f"{root} has {shutil.disk_usage(root).free:,} bytes left; free some space and run again, it goes on"
        raise UserError(f"disk full: blob {file.blob} of {file.size:,} bytes does not fit: {left}") from error


def missing_bytes(file: RemoteFile, root: Path) -> int:
    """Return how many bytes of a blob are not on this disk yet."""
    target = root / file.place
    here = _size_bytes(target)
    if here is not None and (not note_of(target).is_file() or _is_noted(file, target, here)):
        return 0
    return max(0, file.size - (_size_bytes(_part_of(target, file)) or 0))


def _size_bytes(path: Path) -> int | None:
    """Return a file's size, None when it is not there; another thread may give it its name just now."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _is_noted(file: RemoteFile, target: Path, size_bytes: int) -> bool:
    return size_bytes == file.size and note_of(target).read_text() == file.etag


def _part_of(target: Path, file: RemoteFile) -> Path:
    return target.with_name(f".{target.name}.{hashlib.sha256(file.etag.encode()).hexdigest()[:16]}.part")


def note_of(target: Path) -> Path:
    """Return the file that tells which version of a blob `target` is; without one it is not a download of ours."""
    return target.with_name(f".{target.name}.etag")


def _is_here(file: RemoteFile, target: Path) -> bool:
    """Tell whether this version is here already; what somebody else put there is used only when it is the same."""
    if not target.is_file():
        return False
    if note_of(target).is_file():
        return _is_noted(file, target, target.stat().st_size)
    if file.md5 is None or _md5(target) != file.md5:
        raise UserError(f"{target} stands where the blob {file.blob} would go and is another file; set BLOB_DEST_DIR")
    return True


def _take_name(file: RemoteFile, part: Path, target: Path) -> None:
    note = note_of(target)
    if target.exists():  # an older version of ours: never a note beside another file than its own
        target.unlink()
    write_file(note, file.etag.encode())
    part.replace(target)
    sync(target.parent)


def _fetch(client: "ContainerClient", file: RemoteFile, part: Path, piece: int, stop: threading.Event) -> None:
    from azure.core import MatchConditions

    blob = client.get_blob_client(file.blob)
    for stale in part.parent.glob(f".{_escaped(Path(file.place).name)}.*.part"):
        if stale != part:
            stale.unlink()
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND, 0o644)
    with os.fdopen(handle, "ab") as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{part} is being downloaded by another process; wait for it or give BLOB_DEST_DIR"
            ) from None
        have = out.seek(0, os.SEEK_END)
        if have > file.size:
            raise ChangedError(f"blob {file.blob}: more bytes than it has were kept")
        while have < file.size:
            if stop.is_set():
                raise StoppedError
            length = min(piece, file.size - have)
            stream = blob.download_blob(
                have, length, etag=file.etag, match_condition=MatchConditions.IfNotModified, max_concurrency=1
            )
            data = stream.readall()
            if len(data) > length:
                raise ChangedError(f"blob {file.blob}: {len(data)} bytes came in place of {length}")
            out.write(data)
            out.flush()
            if not data:
                raise ShortError(f"blob {file.blob}: {have} bytes came, it has {file.size}, and no more come")
            have += len(data)
        os.fsync(out.fileno())


def _verify(file: RemoteFile, part: Path) -> None:
    size = part.stat().st_size
    if size != file.size:
        raise ChangedError(f"blob {file.blob}: {size} bytes came, it has {file.size}")
    if file.md5 and _md5(part) != file.md5:
        raise ChangedError(f"blob {file.blob}: its {size} bytes do not have the MD5 that the service gives")


def _md5(path: Path) -> bytes:
    with path.open("rb") as data:
        return hashlib.file_digest(data, lambda: hashlib.md5(usedforsecurity=False)).digest()


def _make_room(root: Path, place: str) -> Path:
    """Make the folders of a file below `root`; no link on the way may lead elsewhere."""
    root.mkdir(parents=True, exist_ok=True)
    folder = root
    for name in place.split("/")[:-1]:
        folder /= name
        if folder.is_symlink():
            raise UserError(f"{folder} is a link, and downloads do not follow links; remove it")
        folder.mkdir(exist_ok=True)
    target = folder / place.rpartition("/")[2]
    if target.is_symlink():
        raise UserError(f"{target} is a link, and downloads do not follow links; remove it")
    return target


def _escaped(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
