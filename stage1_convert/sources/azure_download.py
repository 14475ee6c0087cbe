"""Downloads a blob: its verified bytes take its name in the download folder at once, or it is clear why they cannot.

Beside a download NAME the file .NAME.etag holds the version of the blob. A file without one belongs to somebody else.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from azure.core import MatchConditions
from azure.storage.blob import ContainerClient

from common.cli.command import UserError
from common.storage.files import atomic_path, write_file
from stage1_convert.sources.azure_client import Blob, BlobError, translate_errors

CONNECTIONS = 4  # for one blob
MAX_NAME_BYTES = 240  # file systems take 255, of which temporary names need some


def check_paths(paths: Iterable[str]) -> None:
    """Raise UserError, with the name escaped, for names that would leave the folder or cannot be stored together in it."""
    seen: dict[str, str] = {}
    for path in paths:
        for spelling in (path, unquote(path)):
            parts = spelling.split("/")
            if any(part in ("", ".", "..") for part in parts):
                raise _unfit(path, "an empty part or dots alone")
            if "\\" in spelling or any(unicodedata.category(sign)[0] == "C" for sign in spelling):
                raise _unfit(path, "a backslash or a control character")
            if any(len(part.encode()) > MAX_NAME_BYTES for part in parts) or len(spelling.encode()) > 1024:
                raise _unfit(path, f"more than {MAX_NAME_BYTES} bytes")
            if len(parts[0]) > 1 and parts[0][1] == ":":
                raise _unfit(path, "a drive")
        same = unicodedata.normalize("NFC", path).casefold()
        if same in seen:
            raise UserError(f"the blobs {seen[same]!a} and {path!a} differ only in case or spelling; rename one")
        seen[same] = path
    for path in seen:
        for folder in Path(path).parents:
            if folder.as_posix() in seen:
                raise UserError(f"the blob {folder.as_posix()!a} has the name of a folder; rename it")


def _unfit(path: str, what: str) -> UserError:
    return UserError(f"the blob {path!a} has no name for a file: it holds {what}; rename or remove it")


def download(client: ContainerClient, blob: Blob, root: Path) -> None:
    """Download a blob to its path below `root`, unless this version is there already.

    Raises BlobError when this blob cannot be downloaded, DeniedError or another UserError when no blob can, and
    TransientError when it may work later.
    """
    target = _make_folders(root, blob.path)
    if _is_downloaded(blob, target):
        return
    with atomic_path(target) as temporary:
        with temporary.open("wb") as file, translate_errors(f"blob {blob.name}"):
            stream = client.get_blob_client(blob.name).download_blob(
                etag=blob.etag,
                match_condition=MatchConditions.IfNotModified,
                max_concurrency=CONNECTIONS,
                validate_content=True,
            )
            stream.readinto(file)
        _verify(blob, temporary)
        target.unlink(missing_ok=True)  # an older version, which must never stand beside the new version's etag
        write_file(etag_file(target), blob.etag.encode())


def _verify(blob: Blob, path: Path) -> None:
    size_bytes = path.stat().st_size
    if size_bytes != blob.size_bytes:
        raise BlobError(f"blob {blob.name}: {size_bytes} bytes came, it has {blob.size_bytes}; run again")
    if blob.md5 and _md5(path) != blob.md5:
        raise BlobError(
            f"blob {blob.name}: its {size_bytes} bytes do not have the MD5 that the service gives; run again or upload it again"
        )


def missing_bytes(blob: Blob, root: Path) -> int:
    """Return how many bytes of a blob have to be downloaded."""
    target = root / blob.path
    if target.is_file() and (not etag_file(target).is_file() or _has_version(blob, target)):
        return 0
    return blob.size_bytes


def etag_file(target: Path) -> Path:
    """Return the file that holds the version of the blob that was downloaded to `target`."""
    return target.with_name(f".{target.name}.etag")


def _is_downloaded(blob: Blob, target: Path) -> bool:
    """Return whether this version is here; somebody else's file is used when it has the same content."""
    if not target.is_file():
        return False
    if etag_file(target).is_file():
        return _has_version(blob, target)
    if blob.md5 is None or _md5(target) != blob.md5:
        raise UserError(f"{target} stands where the blob {blob.name} would go and is another file; set BLOB_DEST_DIR")
    return True


def _has_version(blob: Blob, target: Path) -> bool:
    return target.stat().st_size == blob.size_bytes and etag_file(target).read_text() == blob.etag


def _md5(path: Path) -> bytes:
    with path.open("rb") as data:
        return hashlib.file_digest(data, lambda: hashlib.md5(usedforsecurity=False)).digest()


def _make_folders(root: Path, path: str) -> Path:
    """Make the folders of a file below `root` and return the file's path; raises UserError where a link is on the way."""
    root.mkdir(parents=True, exist_ok=True)
    target = root
    for name in path.split("/"):
        if target != root:
            target.mkdir(exist_ok=True)
        target /= name
        if target.is_symlink():
            raise UserError(f"{target} is a link, and downloads do not follow links; remove it")
    return target
