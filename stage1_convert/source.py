"""A folder in, the bags below it out, in an order that does not depend on the file system."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.command import UserError

STORAGE_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")


class Source(NamedTuple):
    """A bag: its path below the source folder, which names it everywhere, and where it is."""

    name: str
    path: Path


def find_bags(src: Path) -> list[Source]:
    """Return the bags below `src` at any depth, sorted by relative path.

    A bag is a folder with metadata.yaml, or a storage file that lies in no such folder. Raises UserError when there is
    none.
    """
    if not src.is_dir():
        raise UserError(f"--src {src} is not a folder; give the folder that holds the bags")
    try:
        found = list(_walk(src, set()))
    except OSError as error:
        raise UserError(f"--src {src} cannot be listed: {error}") from error
    if not found:
        raise UserError(f"no ROS 2 bag in --src {src}: expected a folder with metadata.yaml, or a .mcap or .db3 file")
    name_of = {path: path.relative_to(src).as_posix() if path != src else src.resolve().name for path in found}
    return sorted(Source(name, path) for path, name in name_of.items())


def storage_files(folder: Path) -> list[Path]:
    """Return the storage files directly in `folder`, sorted by name."""
    return sorted(path for path in folder.iterdir() if _is_storage(path))


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if folder.resolve() in seen:  # a link back up, or a second link to the same bags
        return
    seen.add(folder.resolve())
    metadata = folder / "metadata.yaml"
    if metadata.is_file() and (storage_files(folder) or b"rosbag2_bagfile_information" in metadata.read_bytes()):
        yield folder
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            yield from _walk(path, seen)
        elif _is_storage(path):
            yield path


def _is_storage(path: Path) -> bool:
    return path.name.endswith(STORAGE_SUFFIXES) and not path.name.startswith(".") and path.is_file()
