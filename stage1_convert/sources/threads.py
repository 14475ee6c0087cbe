"""Calls in; their futures, computed by a few threads that nobody has to wait for when it is time to leave, out."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

GRACE_S = 1.0

T = TypeVar("T")


class Crew:
    """Threads for calls that wait for the network; concurrent.futures would let Ctrl-C wait for a line that is dead."""

    def __init__(self, threads: int) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._futures: set[Future[Any]] = set()
        self._threads = threads
        for _ in range(threads):
            threading.Thread(target=self._work, name="download", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give up what has not begun; what has gets a moment to end."""
        for future in (begun := list(self._futures)):
            future.cancel()
        for _ in range(self._threads):
            self._calls.put(None)
        wait(begun, GRACE_S)

    def do(self, call: Callable[[], T]) -> "Future[T]":
        """Have a call made."""
        future: Future[T] = Future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        self._calls.put((future, call))
        return future

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # whoever asks for the result gets it
                    future.set_exception(error)
