"""What --src says in; bags by name and size at once, and each of them on this disk when its turn comes, out."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from stage1_convert.sources.azure_client import is_remote
from stage1_convert.sources.folder import Source, find_bags, size_bytes


class BagInfo(NamedTuple):
    """A bag that can be had: its name, its size, and what its supply knows about it."""

    name: str
    size_bytes: int
    bag: Any


class FetchedBag(NamedTuple):
    """A bag whose turn has come. It is on this disk, unless `sums`, the sha256 of its files, are known without it, or
    `fault` tells why it cannot be had.
    """

    source: Source
    sums: Mapping[str, str] | None = None
    fault: str | None = None


class Absent(NamedTuple):
    """A bag that is not on this disk, by what can be known of it for little, or with the `fault` for which it cannot be had.

    `files` maps the names of files that tell of its messages to their size and to pairs of an offset and the bytes there.
    """

    name: str
    size_bytes: int
    files: dict[str, tuple[int, list[tuple[int, bytes]]]]
    fault: str | None = None


IsDone = Callable[[str, Mapping[str, str]], bool]


class BagSource(Protocol):
    """A place that bags come from; `root` is the local folder that must not be converted into."""

    root: Path
    offers: list[BagInfo]

    def fetch(self, offers: Sequence[BagInfo], is_done: IsDone) -> Generator[FetchedBag, None, None]:
        """Yield these bags in this order; one may stay away when `is_done` says so of its name and the sha256 of its files."""

    def look(self, offers: Sequence[BagInfo]) -> Iterator[Source | Absent]:
        """Yield these bags in this order as they are, on this disk or not."""

    def release(self, source: Source, sums: Mapping[str, str] | None) -> None:
        """Take back a bag; `sums` are the sha256 of its files where they are known."""


def open_source(src: str, keep_downloads: bool) -> BagSource:
    """Return where --src gets its bags from: a folder, one bag, or blobs (address.py says what their names mean).

    Raises UserError when there are none.
    """
    if is_remote(src):
        from stage1_convert.sources.azure import AzureBags

        return AzureBags(src, keep_downloads)
    return LocalBags(Path(src))


class LocalBags:
    """The bags below a folder, which stay where they are."""

    def __init__(self, src: Path) -> None:
        self.root = src.resolve()
        self.offers = [BagInfo(source.name, size_bytes(source.path), source) for source in find_bags(src)]

    def fetch(self, offers: Sequence[BagInfo], _is_done: IsDone) -> Generator[FetchedBag, None, None]:
        """Yield the bags."""
        for offer in offers:
            yield FetchedBag(offer.bag)

    def look(self, offers: Sequence[BagInfo]) -> Iterator[Source | Absent]:
        """Yield the bags."""
        for offer in offers:
            yield offer.bag

    def release(self, source: Source, sums: Mapping[str, str] | None) -> None:
        """Do nothing: the bag is the user's."""
