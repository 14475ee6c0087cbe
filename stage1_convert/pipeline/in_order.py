"""Computes something of every image of a bag in several threads: results in order, the same as with one thread.

OpenCV, numpy and hashlib let other threads run while they compute, so that threads use the cores that are free.
"""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from common.lerobot.images import noticed_together

A = TypeVar("A")
R = TypeVar("R")


class _Batch(NamedTuple, Generic[A]):
    """Items that are computed together, and what reading the one behind them raised."""

    items: list[A]
    failure: Exception | None


class ImageThreads(Generic[A, R]):
    """Computes `function` of items in `threads` threads, while the caller reads further items and uses the results.

    `size` says how many items the next batch has; at most three batches are in memory. What an image decoder prints cannot be
    told apart by image while several run: where it reports damage, a batch is computed again, one item after the other, and
    the following ones are for as long as `is_odd` holds for a result.
    """

    def __init__(
        self, threads: int, function: Callable[[A], R], size: Callable[[], int], is_odd: Callable[[R], bool]
    ) -> None:
        self._threads, self._function, self._size, self._is_odd = threads, function, size, is_odd
        self._one_by_one = False

    def results(self, items: Iterable[A]) -> Generator[tuple[A, R], None, None]:
        """Yield (item, function(item)) in the order of the items; what raises does so when its turn has come."""
        if self._threads == 1:
            yield from ((item, self._function(item)) for item in items)
            return
        waiting: deque[tuple[_Batch[A], Future[list[R]]]] = deque()
        with ThreadPoolExecutor(self._threads) as pool, ThreadPoolExecutor(1) as conductor:
            for batch in self._batches(items):
                waiting.append((batch, conductor.submit(self._compute, batch.items, pool)))
                if len(waiting) > 1:
                    yield from _finish(*waiting.popleft())
            for batch, results in waiting:
                yield from _finish(batch, results)

    def _batches(self, items: Iterable[A]) -> Iterator[_Batch[A]]:
        source, failure = iter(items), None
        while failure is None:
            batch: list[A] = []
            try:
                for item in itertools.islice(source, self._size()):
                    batch.append(item)  # noqa: PERF402 (those before a failure are kept)
            except Exception as error:
                failure = error
            if not batch and failure is None:
                return
            yield _Batch(batch, failure)

    def _compute(self, items: list[A], pool: ThreadPoolExecutor) -> list[R]:
        if not self._one_by_one:
            step = max(1, len(items) // (4 * self._threads))
            parts = (items[first : first + step] for first in range(0, len(items), step))
            with noticed_together() as is_damaged:
                results = list(itertools.chain.from_iterable(pool.map(self._compute_part, parts)))
                if not is_damaged():
                    return results
        results = self._compute_part(items)
        self._one_by_one = any(map(self._is_odd, results))
        return results

    def _compute_part(self, items: list[A]) -> list[R]:
        return [self._function(item) for item in items]


def _finish(batch: _Batch[A], results: Future[list[R]]) -> Iterator[tuple[A, R]]:
    yield from zip(batch.items, results.result(), strict=True)
    if batch.failure is not None:
        raise batch.failure
