"""What --src says in; bags by name and size at once, and each of them on this disk when its turn comes, out."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from stage1_convert.address import is_remote
from stage1_convert.source import Source, find_bags


class Offer(NamedTuple):
    """A bag that can be had: its name, its size, and what its supply knows about it."""

    name: str
    size_bytes: int
    bag: Any


class Supply(Protocol):
    """A place that bags come from; `root` is the local folder that must not be converted into."""

    root: Path
    offers: list[Offer]

    def fetch(self, offers: Sequence[Offer]) -> Generator[Source, None, None]:
        """Yield these bags in this order, each whole on this disk."""

    def release(self, source: Source) -> None:
        """Take back a bag that has been converted."""


def open_supply(src: str, keep_downloads: bool) -> Supply:
    """Return where --src gets its bags from: a folder, one bag, or blobs (address.py says what their names mean).

    Raises UserError when there are none.
    """
    if is_remote(src):
        from stage1_convert.blob import AzureBags

        return AzureBags(src, keep_downloads)
    return LocalBags(Path(src))


class LocalBags:
    """The bags below a folder, which stay where they are."""

    def __init__(self, src: Path) -> None:
        self.root = src.resolve()
        self.offers = [Offer(source.name, _size_bytes(source.path), source) for source in find_bags(src)]

    def fetch(self, offers: Sequence[Offer]) -> Generator[Source, None, None]:
        """Yield the bags."""
        for offer in offers:
            yield offer.bag

    def release(self, source: Source) -> None:
        """Do nothing: the bag is the user's."""


def _size_bytes(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
