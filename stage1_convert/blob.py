"""A prefix of blobs in Azure Storage in; its bags, one after the other as each is whole on this disk, out.

They are listed with their sizes first. `fetch` brings them down a few ahead of the one that is asked for, and `release`
deletes what has been converted, so that a small disk does for any number of bags.
"""

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from common.command import TransientError, UserError
from common.files import require_free
from stage1_convert.address import Address, parse, sign_in
from stage1_convert.database import SIDECARS
from stage1_convert.download import (
    ATTEMPTS,
    FIRST_PAUSE_S,
    RemoteFile,
    as_ours,
    check_places,
    describe,
    download,
    note_of,
)
from stage1_convert.source import Source, is_storage
from stage1_convert.supply import Offer

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

DEFAULT_FOLDER = "/data/rosbags"
PARALLEL = 8  # files at a time
AHEAD = 2  # bags that are brought down before they are asked for


class AzureBags:
    """The bags below a prefix, by name; `keep` leaves downloads where they are. It is a Supply."""

    def __init__(self, src: str, keep: bool, environment: Mapping[str, str] = os.environ) -> None:
        self.address = parse(src, environment)
        self.root = Path(environment.get("BLOB_DEST_DIR") or DEFAULT_FOLDER).resolve()
        self._keep = keep
        self._client = sign_in(self.address, environment)
        self.offers = group(_named(_list(self._client, self.address), self.address))
        self._files = {offer.name: offer.bag for offer in self.offers}
        if not self.offers:
            raise UserError(
                f"no bag in {self.address}: expected folders with metadata.yaml, or .mcap, .db3, .bag blobs"
            )

    def fetch(self, offers: Sequence[Offer]) -> Generator[Source, None, None]:
        """Yield these bags in this order, each whole and verified on disk.

        Raises UserError or TransientError when one cannot be had; what came of it stays for the next run.
        """
        stop = threading.Event()
        pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="download")
        waiting: deque[tuple[Offer, list[Future[Path]]]] = deque()
        coming = iter(offers)
        try:
            while True:
                for offer in itertools.islice(coming, AHEAD + 1 - len(waiting)):
                    missing = sum(file.size for file in offer.bag if not (self.root / file.place).exists())
                    require_free(self.root, missing, f"bag {offer.name}")
                    files = [pool.submit(download, self._client, file, self.root, stop) for file in offer.bag]
                    waiting.append((offer, files))
                if not waiting:
                    return
                offer, files = waiting.popleft()
                for file in files:
                    file.result()
                yield Source(offer.name, self.root / offer.name)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)

    def release(self, source: Source) -> None:
        """Delete what was downloaded of a bag that has been converted, unless downloads are kept."""
        if self._keep:
            return
        files = self._files[source.name]
        for file in files:
            path = self.root / file.place
            if note_of(path).exists():  # else it was here before us
                path.unlink(missing_ok=True)
                note_of(path).unlink()
        folder = (self.root / files[0].place).parent
        while folder != self.root and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


def group(files: Iterable[RemoteFile]) -> list[Offer]:
    """Return the bags among blobs, by the same rule as find_bags: folders with metadata.yaml, else storage files.

    Raises UserError when a bag's blob has a name that cannot be a file's.
    """
    by_folder: dict[str, dict[str, RemoteFile]] = {}
    for file in files:
        folder, _, name = file.place.rpartition("/")
        if not any(part.startswith(".") and part.strip(".") for part in file.place.split("/")):  # hidden
            by_folder.setdefault(folder, {})[name] = file
    whole = {folder for folder, names in by_folder.items() if "metadata.yaml" in names and any(map(is_storage, names))}
    bags: list[Offer] = []
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


def _bag(name: str, files: list[RemoteFile]) -> Offer:
    return Offer(name, sum(file.size for file in files), sorted(files))


def _owner(name: str) -> str:
    """Return the storage file that a file belongs to: itself, or the one whose write-ahead log it is."""
    return next((name.removesuffix(ending) for ending in SIDECARS if name.endswith(ending)), name)


def _list(client: "ContainerClient", address: Address) -> list[RemoteFile]:
    """List all blobs of a folder, or the one blob, that the prefix names."""
    prefix = address.prefix
    folder = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    for attempt in range(ATTEMPTS):
        try:
            with as_ours(str(address)):
                return [
                    describe(blob, blob.name, blob.name[len(folder) :] or blob.name.rpartition("/")[2])
                    for blob in client.list_blobs(name_starts_with=prefix, include=["metadata"])
                    if not (blob.metadata or {}).get("hdi_isfolder")
                    and (blob.name.startswith(folder) or blob.name == prefix)
                ]
        except TransientError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(FIRST_PAUSE_S * 2**attempt)
    raise AssertionError


def _named(files: list[RemoteFile], address: Address) -> list[RemoteFile]:
    """Give a bag that is itself the prefix its own name, as find_bags does."""
    if "metadata.yaml" not in {file.place for file in files}:
        return files
    name = address.prefix.strip("/").rpartition("/")[2] or address.container
    return [file._replace(place=f"{name}/{file.place}") for file in files]
