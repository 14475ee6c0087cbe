"""The bags below a local folder, in an order that does not depend on the file system."""

import atexit
import shutil
import tempfile
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli.command import UserError
from common.storage.disk import default_cache_dir
from stage1_convert.bags.storage import content_files, is_storage, storage_files
from stage1_convert.sources.checksum_cache import ChecksumCache
from stage1_convert.sources.join import describe_parallel, join_parallel
from stage1_convert.sources.source import BagInfo, BagPath, FetchedBag, IsDone
from stage1_convert.sources.split_files import is_one_recording

CHECKSUMS = "checksums.json"


class LocalBags:
    """A BagSource of bags that stay where they are; `join` makes one of those that were recorded side by side."""

    def __init__(self, src: Path, join: bool = False) -> None:
        self.root = src.resolve()
        self._found = {source.name: source for source in list_bags(src, join)}
        # A joined bag is a new folder in every run: what is remembered of it would never be found again.
        self._lasting = {source.name for source in self._found.values() if source.path.is_relative_to(src)}
        self._checksums = ChecksumCache(default_cache_dir() / CHECKSUMS)
        self._versions: dict[str, list[Any]] = {}
        self.bags = [BagInfo(source.name, size_bytes(source.path)) for source in self._found.values()]

    def missing_bytes(self, _bags: Sequence[BagInfo]) -> int:
        """Return 0: all bags are here."""
        return 0

    def fetch(self, bags: Sequence[BagInfo], _is_done: IsDone) -> Generator[FetchedBag, None, None]:
        """Yield the bags, with the sha256 of those that have not changed since a run read them."""
        for bag in bags:
            source = self._found[bag.name]
            version = self._versions[bag.name] = _version(source.path) if bag.name in self._lasting else []
            yield FetchedBag(source, self._checksums.get(_id(source.path), version) if version else None)

    def hint(self, refused: Collection[str]) -> str:
        """Return that some of the refused bags belong together; "" when none do."""
        return describe_parallel([self._found[name] for name in refused]) if len(refused) > 1 else ""

    def release(self, bag: BagPath, sums: Mapping[str, str] | None) -> None:
        """Remember the sha256 of a bag as it was before it was read: one that changed meanwhile is not known by them."""
        version = self._versions.pop(bag.name, [])
        if sums and version:
            self._checksums.put(_id(bag.path), version, sums)

    def close(self) -> None:
        """Keep what was learned of the bags for the next run."""
        self._checksums.save()


def list_bags(src: Path, join: bool) -> list[BagPath]:
    """Return the bags below `src`; with `join`, those that were recorded side by side as one, in a temporary folder."""
    bags = find_bags(src)
    if not join:
        return bags
    folder = Path(tempfile.mkdtemp(prefix="join-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return join_parallel(bags, folder)


def find_bags(src: Path) -> list[BagPath]:
    """Return the bags below `src` at any depth, sorted by relative path; `src` may be a bag itself.

    A bag is a folder with metadata.yaml, a folder whose storage files are the parts of one recording, or a storage file
    in any other folder. Raises UserError when there is none.
    """
    if src.is_file() and is_storage(src.name):
        return [BagPath(src.name, src)]
    if not src.is_dir():
        raise UserError(f"{src} is not a folder and not a bag; give the folder that holds the bags, or one bag")
    try:
        found = list(_walk(src, set()))
    except OSError as error:
        raise UserError(f"{src} cannot be listed: {error}; change its permissions or give another folder") from error
    if not found:
        raise UserError(f"no bag in {src}: expected a folder with metadata.yaml, or a .mcap, .db3 or .bag file")
    names = [path.relative_to(src).as_posix() if path != src else src.resolve().name for path in found]
    return sorted(map(BagPath, names, found))


def size_bytes(bag: Path) -> int:
    """Return the total size of the files that a bag is read from; 0 where it is not on this disk."""
    return sum(file.stat().st_size for file in content_files(bag) if file.is_file())


def _id(bag: Path) -> list[str]:
    return [str(bag.resolve())]


def _version(bag: Path) -> list[Any]:
    """Return what changes with every change of a bag's files; empty when they cannot be looked at.

    No tool sets the time of a change of the inode (ctime) back, as copying and touching do with that of the content. Files
    that were written in the same tick of the clock have all times in common, and the folder of one can take the other's name.
    """
    try:
        states = [(file.name, file.stat()) for file in content_files(bag)]
    except OSError:
        return []
    return [(name, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for name, state in states]


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if folder.resolve() in seen:  # a link to a parent, or a second link to the same bags
        return
    seen.add(folder.resolve())
    files, metadata = storage_files(folder), folder / "metadata.yaml"
    if metadata.is_file() and (files or b"rosbag2_bagfile_information" in metadata.read_bytes()):
        yield folder
        return
    yield from [folder] if is_one_recording(files) else files
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            yield from _walk(path, seen)
