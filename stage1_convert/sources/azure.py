"""A prefix of blobs in Azure Storage in; its bags, one after the other as each is whole on this disk, out.

They are listed with their sizes first. `fetch` brings them down a few ahead of the one that is asked for, and `release`
deletes what has been converted, so that a small disk does for any number of bags.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.cli.command import UserError, one_line
from common.storage.files import remove_stale, require_free
from stage1_convert.bags.mcap import FOOTER_BYTES, MAGIC, summary_start
from stage1_convert.bags.storage import SIDECARS, is_storage
from stage1_convert.sources.azure_client import Address, parse, sign_in
from stage1_convert.sources.azure_download import check_places, download, missing_bytes, note_of
from stage1_convert.sources.azure_service import (
    BlobError,
    DeniedError,
    RemoteFile,
    describe,
    read_range,
    translate_errors,
    with_retries,
)
from stage1_convert.sources.checksum_cache import ChecksumCache
from stage1_convert.sources.folder import Source
from stage1_convert.sources.source import Absent, BagInfo, FetchedBag, IsDone
from stage1_convert.sources.threads import Crew

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

DEFAULT_FOLDER = "/data/rosbags"
PARALLEL = 8  # files at a time
AHEAD = 2  # bags that are brought down before they are asked for
MOST_BYTES = 16 << 20  # of a metadata.yaml or of an index, to tell what is in a bag that is not here


class AzureBags:
    """The bags below a prefix, by name; `keep` leaves downloads where they are. It is a BagSource."""

    def __init__(self, src: str, keep: bool, environment: Mapping[str, str] = os.environ) -> None:
        self.address = parse(src, environment)
        self.root = Path(environment.get("BLOB_DEST_DIR") or DEFAULT_FOLDER).resolve()
        self._keep = keep
        self._client = sign_in(self.address, environment)
        self.offers = group(_named(_list(self._client, self.address), self.address))
        self._files = {offer.name: offer.bag for offer in self.offers}
        self._recall = ChecksumCache(self.root, self.address)
        if not self.offers:
            raise UserError(
                f"no bag in {self.address}: expected folders with metadata.yaml, or .mcap, .db3, .bag blobs"
            )

    def fetch(self, offers: Sequence[BagInfo], is_done: IsDone = lambda *_: False) -> Generator[FetchedBag, None, None]:
        """Yield these bags in this order, each whole and verified on disk, or with the reason why it cannot be had.

        One that would have to come, though it is the same as before, stays away when `is_done` says so. Raises UserError
        or TransientError when no more can be had; what came of them stays for the next run.
        """
        for folder in {(self.root / file.place).parent for offer in offers for file in offer.bag}:
            if folder == folder.resolve():  # a link is nothing of ours
                remove_stale(folder)
        todo, coming = deque(offers), deque[_Coming]()
        with Crew(PARALLEL) as crew:
            try:
                while todo or coming:
                    while todo and len(coming) <= AHEAD and self._fits(bag := self._ask(todo[0], is_done), coming):
                        todo.popleft()
                        files = () if bag.sums else bag.offer.bag
                        calls = [partial(download, self._client, file, self.root, bag.stop) for file in files]
                        coming.append(bag._replace(files=[crew.do(call) for call in calls]))
                    yield self._deliver(coming[0])
                    coming.popleft()
            finally:
                for bag in coming:
                    bag.stop.set()

    def look(self, offers: Sequence[BagInfo]) -> Iterator[Source | Absent]:
        """Yield bags that lie here, whole, and of others the files and ends of files that tell what is in them."""
        asked = deque[Future[Source | Absent]]()
        with Crew(PARALLEL) as crew:
            for offer in offers:
                asked.append(crew.do(partial(self._look, offer)))
                if len(asked) > 2 * PARALLEL:  # what they tell of is not kept longer than needed
                    yield asked.popleft().result()
            while asked:
                yield asked.popleft().result()

    def release(self, source: Source, sums: Mapping[str, str] | None) -> None:
        """Delete what was downloaded of a bag, unless downloads are kept; what it was is remembered."""
        files = self._files[source.name]
        if sums is not None:
            self._recall.keep(files, sums)
        if self._keep:
            return
        for file in files:
            path = self.root / file.place
            if note_of(path).exists():  # else it was here before us
                path.unlink(missing_ok=True)
                note_of(path).unlink()
        folder = (self.root / files[0].place).parent
        while folder != self.root and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent

    def _ask(self, offer: BagInfo, is_done: IsDone) -> "_Coming":
        missing = sum(missing_bytes(file, self.root) for file in offer.bag)
        sums = self._recall.sums(offer.bag) if missing else None
        return _Coming(offer, sums if sums and is_done(offer.name, sums) else None, [], threading.Event())

    def _fits(self, bag: "_Coming", coming: Collection["_Coming"]) -> bool:
        """Tell whether there is room for a bag beside those that come before it; raises UserError when none does."""
        files = [file for one in (bag, *coming) if not one.sums for file in one.offer.bag]
        try:
            require_free(self.root, sum(missing_bytes(file, self.root) for file in files), f"bag {bag.offer.name}")
        except UserError:
            if not coming:
                raise
            return False
        return True

    def _deliver(self, bag: "_Coming") -> FetchedBag:
        """Wait for a bag's files; raises what concerns not only this bag."""
        source = Source(bag.offer.name, self.root / bag.offer.name)
        try:
            for file in bag.files:
                file.result()
        except (BlobError, DeniedError) as error:
            if isinstance(error, DeniedError) and not self._reads_others(bag.offer):
                raise
            bag.stop.set()
            wait(bag.files)
            return FetchedBag(source, fault=one_line(error))
        return FetchedBag(source, bag.sums)

    def _reads_others(self, offer: BagInfo) -> bool:
        """Tell whether the credentials read any blob of some other bags: then they are good, and one blob is denied."""
        others = [other.bag[0] for other in self.offers if other is not offer]
        for file in {*others[:1], *others[len(others) // 2 :][:1], *others[-1:]}:
            with contextlib.suppress(BlobError, DeniedError), translate_errors(f"blob {file.blob}"):
                self._client.get_blob_client(file.blob).get_blob_properties()
                return True
        return False

    def _look(self, offer: BagInfo) -> Source | Absent:
        if not sum(missing_bytes(file, self.root) for file in offer.bag):
            return Source(offer.name, self.root / offer.name)
        found = Absent(offer.name, offer.size_bytes, {})
        try:
            for file in offer.bag:
                name = file.place.rpartition("/")[2]
                if name == "metadata.yaml":
                    data = read_range(self._client, file, 0, min(file.size, MOST_BYTES))
                    found.files[name] = file.size, [(0, data)]
                elif len(offer.bag) == 1 and name.endswith(".mcap"):
                    found.files[name] = file.size, self._ends(file)
        except (BlobError, DeniedError) as error:
            return found._replace(fault=one_line(error))
        return found

    def _ends(self, file: RemoteFile) -> list[tuple[int, bytes]]:
        """Return the beginning of an .mcap file and, where it has one, the summary at its end."""
        known = [(0, read_range(self._client, file, 0, min(file.size, len(MAGIC))))]
        tail = read_range(self._client, file, max(0, file.size - FOOTER_BYTES), min(file.size, FOOTER_BYTES))
        start = summary_start(tail)
        if start is not None and len(MAGIC) <= start < file.size and file.size - start <= MOST_BYTES:
            known.append((start, read_range(self._client, file, start, file.size - start)))
        return known


class _Coming(NamedTuple):
    """A bag on its way, or known by `sums` to be the same as before; `stop` calls its files off."""

    offer: BagInfo
    sums: Mapping[str, str] | None
    files: list["Future[Path]"]
    stop: threading.Event


def group(files: Iterable[RemoteFile]) -> list[BagInfo]:
    """Return the bags among blobs, by the same rule as find_bags: folders with metadata.yaml, else storage files.

    Raises UserError when a bag's blob has a name that cannot be a file's.
    """
    by_folder: dict[str, dict[str, RemoteFile]] = {}
    for file in files:
        folder, _, name = file.place.rpartition("/")
        if not any(part.startswith(".") and part.strip(".") for part in file.place.split("/")):  # hidden
            by_folder.setdefault(folder, {})[name] = file
    whole = {folder for folder, names in by_folder.items() if "metadata.yaml" in names and any(map(is_storage, names))}
    bags: list[BagInfo] = []
    for folder, names in by_folder.items():
        if any(folder.startswith(f"{other}/") for other in whole):
            continue
        if folder in whole:
            bags.append(
                _bag(folder, [file for n, file in names.items() if n == "metadata.yaml" or is_storage(_owner(n))])
            )
            continue
        bags += [
            _bag(names[name].place, [file for n, file in names.items() if _owner(n) == name])
            for name in filter(is_storage, names)
        ]
    check_places(file.place for offer in bags for file in offer.bag)
    return sorted(bags, key=lambda offer: offer.name)


def _bag(name: str, files: list[RemoteFile]) -> BagInfo:
    return BagInfo(name, sum(file.size for file in files), sorted(files))


def _owner(name: str) -> str:
    """Return the storage file that a file belongs to: itself, or the one whose write-ahead log it is."""
    return next((name.removesuffix(ending) for ending in SIDECARS if name.endswith(ending)), name)


def _list(client: "ContainerClient", address: Address) -> list[RemoteFile]:
    """List all blobs of a folder, or the one blob, that the prefix names."""
    prefix = address.prefix
    folder = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"

    def ask() -> list[RemoteFile]:
        with translate_errors(str(address)):
            return [
                describe(blob, blob.name, blob.name[len(folder) :] or blob.name.rpartition("/")[2])
                for blob in client.list_blobs(name_starts_with=prefix, include=["metadata"])
                if not (blob.metadata or {}).get("hdi_isfolder")
                and (blob.name.startswith(folder) or blob.name == prefix)
            ]

    return with_retries(ask)


def _named(files: list[RemoteFile], address: Address) -> list[RemoteFile]:
    """Give a bag that is itself the prefix its own name, as find_bags does."""
    if "metadata.yaml" not in {file.place for file in files}:
        return files
    name = address.prefix.strip("/").rpartition("/")[2] or address.container
    return [file._replace(place=f"{name}/{file.place}") for file in files]
