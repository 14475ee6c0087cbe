"""What a source of bags provides: their names and sizes at once, and each bag on this disk when its turn comes."""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol


class BagPath(NamedTuple):
    """A bag on this disk: its path below the source folder, which names it everywhere, and where it is."""

    name: str
    path: Path


class BagInfo(NamedTuple):
    """A bag of a source, whether it is on this disk or not."""

    name: str
    size_bytes: int


class FetchedBag(NamedTuple):
    """A bag whose turn has come.

    `sums` are the sha256 of its files by name where they are known. It is on this disk, unless `fault` says why it cannot be
    fetched, or the caller said that its sums suffice.
    """

    source: BagPath
    sums: Mapping[str, str] | None = None
    fault: str | None = None


IsDone = Callable[[str, Mapping[str, str]], bool]


class BagSource(Protocol):
    """Where bags come from; `root` is the local folder that holds them, or will."""

    root: Path
    bags: list[BagInfo]

    def missing_bytes(self, bags: Sequence[BagInfo], /) -> int:
        """Return how many bytes of these bags are not on this disk yet."""

    def fetch(self, bags: Sequence[BagInfo], is_done: IsDone, /) -> Generator[FetchedBag, None, None]:
        """Yield these bags in this order; one that is not on this disk is not fetched when `is_done(name, sums)` is true."""

    def hint(self, refused: Collection[str]) -> str:
        """Return what may help bags that were refused, "" for nothing."""

    def release(self, bag: BagPath, sums: Mapping[str, str] | None) -> None:
        """Accept that a bag is not needed any more; `sums` are the sha256 of its files where they are known."""

    def close(self) -> None:
        """Keep what was learned of the bags for the next run."""
