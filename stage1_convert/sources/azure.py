"""The bags below a prefix of blobs in Azure Storage.

They are listed with their sizes first. `fetch` downloads them a few ahead of the one that is asked for, and `release`
deletes what is not needed any more, so that a small disk suffices for any number of bags.
"""

import os
import threading
from collections import deque
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from common.cli.command import UserError, one_line
from common.storage.disk import require_free
from common.storage.files import remove_stale
from stage1_convert.bags.storage import SIDECARS, is_storage
from stage1_convert.sources.azure_client import (
    Address,
    Blob,
    BlobError,
    DeniedError,
    list_blobs,
    open_container,
    parse_address,
)
from stage1_convert.sources.azure_download import check_paths, download, etag_file, missing_bytes
from stage1_convert.sources.azure_sas import describe_oddities
from stage1_convert.sources.checksum_cache import ChecksumCache
from stage1_convert.sources.source import BagInfo, BagPath, FetchedBag, IsDone

DEFAULT_FOLDER = "/data/rosbags"
CHECKSUMS = ".sums.json"
AHEAD = 2  # bags that are downloaded before they are asked for


class AzureBags:
    """A BagSource of blobs; `keep` leaves downloads in the folder BLOB_DEST_DIR."""

    def __init__(self, src: str, keep: bool, environment: Mapping[str, str] = os.environ) -> None:
        address = parse_address(src, environment)
        self.root = Path(environment.get("BLOB_DEST_DIR") or DEFAULT_FOLDER).resolve()
        self._keep = keep
        self._stop = threading.Event()
        self._client = open_container(address, environment, self._stop)
        self._oddities = describe_oddities(environment)
        try:
            blobs = list_blobs(self._client, address)
        except DeniedError as error:
            raise DeniedError("; ".join(filter(None, (str(error), self._oddities)))) from error
        self._blobs = group_bags(_with_own_name(blobs, address))
        self._address, self._checksums = address, ChecksumCache(self.root / CHECKSUMS)
        self.bags = [BagInfo(name, sum(blob.size_bytes for blob in blobs)) for name, blobs in self._blobs.items()]
        if not self.bags:
            raise UserError(f"no bag in {address}: expected folders with metadata.yaml, or .mcap, .db3, .bag blobs")

    def missing_bytes(self, bags: Iterable[BagInfo]) -> int:
        """Return how many bytes of these bags have to be downloaded."""
        return sum(missing_bytes(blob, self.root) for bag in bags for blob in self._blobs[bag.name])

    def fetch(
        self, bags: Sequence[BagInfo], is_done: IsDone = lambda _name, _sums: False
    ) -> Generator[FetchedBag, None, None]:
        """Yield these bags in this order, each complete and verified on disk, or with the reason why it cannot be.

        A bag of which a known version would have to be downloaded again is not when `is_done` says so. Raises UserError
        or TransientError when no more bags can be downloaded; what was downloaded stays for the next run.
        """
        self._remove_stale(bags)
        self._stop.clear()
        threads = ThreadPoolExecutor(1 + AHEAD, "download")
        waiting, coming = deque(bags), deque[_Coming]()
        try:
            while waiting or coming:
                while waiting and len(coming) <= AHEAD:
                    bag = waiting[0]
                    sums = self._sums_if_done(bag, is_done)
                    if sums is None and not self._has_room(bag, coming):
                        break
                    waiting.popleft()
                    coming.append(_Coming(bag, sums, threads.submit(self._fetch_bag, bag, sums)))
                yield coming.popleft().fetched.result()
        finally:
            self._stop.set()
            threads.shutdown(cancel_futures=True)

    def hint(self, refused: Collection[str]) -> str:  # noqa: ARG002
        """Return "": only bags in a folder are joined."""
        return ""

    def release(self, bag: BagPath, sums: Mapping[str, str] | None) -> None:
        """Delete the files that were downloaded of a bag, unless downloads are kept, and remember its checksums."""
        blobs = self._blobs[bag.name]
        if sums is not None:
            self._checksums.put(*self._version(blobs), sums)
        if self._keep:
            return
        for target in (self.root / blob.path for blob in blobs):
            if etag_file(target).exists():  # otherwise it is somebody else's file
                target.unlink(missing_ok=True)
                etag_file(target).unlink()

    def close(self) -> None:
        """Keep what was learned of the bags for the next run."""
        self._checksums.save()

    def _remove_stale(self, bags: Iterable[BagInfo]) -> None:
        """Remove the temporary files that a killed run left behind."""
        for folder in {(self.root / blob.path).parent for bag in bags for blob in self._blobs[bag.name]}:
            if folder == folder.resolve():  # nothing is removed behind a link
                remove_stale(folder)

    def _sums_if_done(self, bag: BagInfo, is_done: IsDone) -> Mapping[str, str] | None:
        """Return the checksums of a bag that would have to be downloaded, and is not because they suffice."""
        sums = self._checksums.get(*self._version(self._blobs[bag.name])) if self.missing_bytes([bag]) else None
        return sums if sums and is_done(bag.name, sums) else None

    def _version(self, blobs: Sequence[Blob]) -> tuple[list[str], list[Any]]:
        """Return what tells a bag from all others, and what tells its versions apart: the service knows no sha256."""
        names = [self._address.account, self._address.container, *(blob.name for blob in blobs)]
        return names, [(blob.size_bytes, blob.etag, blob.md5.hex() if blob.md5 else "") for blob in blobs]

    def _has_room(self, bag: BagInfo, coming: Collection["_Coming"]) -> bool:
        """Return whether the disk has room for a bag beside those that come before it; raises UserError when it never has."""
        downloads = [bag, *(other.bag for other in coming if other.sums is None)]
        try:
            require_free(self.root, self.missing_bytes(downloads), f"bag {bag.name}")
        except UserError:
            if not coming:
                raise
            return False
        return True

    def _fetch_bag(self, bag: BagInfo, sums: Mapping[str, str] | None) -> FetchedBag:
        source = BagPath(bag.name, self.root / bag.name)
        try:
            for blob in self._blobs[bag.name] if sums is None else []:
                download(self._client, blob, self.root)
        except BlobError as error:
            return FetchedBag(source, fault=one_line(error))
        except DeniedError as error:
            way_out = f"or leave bag {bag.name} out by data.exclude"
            raise DeniedError("; ".join(filter(None, (str(error), self._oddities, way_out)))) from error
        return FetchedBag(source, sums)


class _Coming(NamedTuple):
    """A bag that is downloaded, or that is not because its `sums` suffice."""

    bag: BagInfo
    sums: Mapping[str, str] | None
    fetched: Future[FetchedBag]


def group_bags(blobs: Iterable[Blob]) -> dict[str, list[Blob]]:
    """Return the blobs of each bag, by the same rule as find_bags: folders with metadata.yaml, else storage files.

    Raises UserError when a bag's blob has a name that cannot be a file's.
    """
    folders: dict[str, dict[str, Blob]] = {}
    for blob in blobs:
        folder, _, name = blob.path.rpartition("/")
        if not any(part.startswith(".") and part.strip(".") for part in blob.path.split("/")):  # hidden
            folders.setdefault(folder, {})[name] = blob
    whole = {folder for folder, files in folders.items() if "metadata.yaml" in files and any(map(is_storage, files))}
    bags: dict[str, list[Blob]] = {}
    for folder, files in folders.items():
        if any(folder.startswith(f"{other}/") for other in whole):
            continue
        for name, blob in files.items():
            owner = _owner(name)
            if folder in whole and (name == "metadata.yaml" or is_storage(owner)):
                bags.setdefault(folder, []).append(blob)
            elif folder not in whole and is_storage(owner) and owner in files:
                bags.setdefault(files[owner].path, []).append(blob)
    check_paths(blob.path for blobs in bags.values() for blob in blobs)
    return {name: sorted(bags[name]) for name in sorted(bags)}


def _owner(name: str) -> str:
    """Return the storage file that a file belongs to: itself, or the one whose write-ahead log it is."""
    return next((name.removesuffix(ending) for ending in SIDECARS if name.endswith(ending)), name)


def _with_own_name(blobs: list[Blob], address: Address) -> list[Blob]:
    """Return the blobs of a bag that is itself the prefix with its own name before their paths, as find_bags names it."""
    if "metadata.yaml" not in {blob.path for blob in blobs}:
        return blobs
    name = address.prefix.strip("/").rpartition("/")[2] or address.container
    return [blob._replace(path=f"{name}/{blob.path}") for blob in blobs]
