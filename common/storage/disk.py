"""Free space of a disk, a full one named by its path, and the folder of what can be computed again."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.cli.command import UserError


class DiskFullError(UserError):
    """A disk is full; the text names the path and the number of bytes that were free."""


def default_cache_dir() -> Path:
    """Return the user's folder of what can be computed again: $XDG_CACHE_HOME/bag2act, or ~/.cache/bag2act.

    A user without a home, as containers have them, gets one below the folder of temporary files.
    """
    home = os.path.expanduser("~")  # noqa: PTH111  Path raises where there is none
    parent = Path(home, ".cache") if home != "~" else Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or parent) / "bag2act"


def nearest_existing(path: Path) -> Path:
    """Return `path`, or its nearest parent that exists."""
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def free_bytes(path: Path) -> int:
    """Return the free space of the disk on which `path` is, or would be, stored."""
    return shutil.disk_usage(nearest_existing(path)).free


def require_free(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise UserError with both numbers when the disk of `folder` has less than `needed_bytes` free."""
    available_bytes = free_bytes(folder)
    if available_bytes < needed_bytes:
        raise UserError(
            f"disk too full for {what}: {nearest_existing(folder)} has {available_bytes:,} bytes free, {needed_bytes:,} are "
            "needed; free some space or choose another folder"
        )


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Raise DiskFullError when the disk of `path` fills up in the block; the system's error does not name the path."""
    before_bytes = free_bytes(path)
    try:
        yield
    except Exception as error:
        # Libraries in C and Rust pass on the system's message, not its number.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise DiskFullError(
            f"disk full: {path} needs more than the {before_bytes:,} bytes that were free there; "
            "free some space or choose another folder"
        ) from error
