"""A folder or a single bag in, the bags in it out, in an order that does not depend on the file system."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.cli.command import UserError
from stage1_convert.bags.storage import is_storage, storage_files
from stage1_convert.sources.split_files import is_one_recording


class Source(NamedTuple):
    """A bag: its path below the source folder, which names it everywhere, and where it is."""

    name: str
    path: Path


def find_bags(src: Path) -> list[Source]:
    """Return the bags below `src` at any depth, sorted by relative path; `src` may be a bag itself.

    A bag is a folder with metadata.yaml, a folder whose storage files are the parts of one recording, or a storage file
    that lies in no such folder. Raises UserError when there is none.
    """
    if src.is_file() and is_storage(src.name):
        return [Source(src.name, src)]
    if not src.is_dir():
        raise UserError(f"--src {src} is not a folder and not a bag; give the folder that holds the bags, or one bag")
    try:
        found = list(_walk(src, set()))
    except OSError as error:
        raise UserError(f"--src {src} cannot be listed: {error}") from error
    if not found:
        raise UserError(f"no bag in --src {src}: expected a folder with metadata.yaml, or a .mcap, .db3 or .bag file")
    name_of = {path: path.relative_to(src).as_posix() if path != src else src.resolve().name for path in found}
    return sorted(Source(name, path) for path, name in name_of.items())


def size_bytes(bag: Path) -> int:
    """Return how much a bag's files take together."""
    return sum(file.stat().st_size for file in (bag.iterdir() if bag.is_dir() else [bag]) if file.is_file())


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if folder.resolve() in seen:  # a link back up, or a second link to the same bags
        return
    seen.add(folder.resolve())
    metadata = folder / "metadata.yaml"
    if metadata.is_file() and (storage_files(folder) or b"rosbag2_bagfile_information" in metadata.read_bytes()):
        yield folder
        return
    parts = storage_files(folder)
    joined = is_one_recording(parts)
    yield from [folder] if joined else parts
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            yield from _walk(path, seen)
