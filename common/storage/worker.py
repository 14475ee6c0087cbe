"""A pool of isolated worker processes, for functions that read data of unknown origin.

Such data can crash the library that parses it, make it loop, or make it ask for all memory. `map_isolated` runs every call in
a process with a limit of memory and time. When that process dies or is stopped, the item's result is the reason, and the
other items continue.

    this process                                     a worker, forked by multiprocessing's fork server
    _Pool.submit    -- item, memory limit -->        _serve -> _call -> function(item)
    _Pool.collect   <-- outcome, value ------
"""

import contextlib
import itertools
import multiprocessing
import os
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from common.cli.command import TransientError, UserError
from common.storage.disk import DiskFullError

A = TypeVar("A")
R = TypeVar("R")
Outcome = Literal["result", "error", "out of memory"]


class OutOfMemoryError(UserError):
    """A call asked for more memory than it may take, or its process was killed, probably for lack of memory."""


class Limits(NamedTuple):
    """Limits of one call: memory beyond what the process has at its start (mapped files are free), and time."""

    memory_bytes: int
    time_s: float


def map_isolated(
    function: Callable[[A], R], items: Iterable[A], workers: int, limits: Callable[[A], Limits]
) -> Generator[R | UserError, None, None]:
    """Yield function(item) for every item, in order; where there is no result, a UserError says why.

    `function` must be importable. A UserError that it raises is its result, except for a full disk, which concerns all
    items; other exceptions, apart from MemoryError, are raised here. Items are taken as late as possible: at most one more
    than there are workers is ahead of the last result. Closing the generator stops every process, and so does the death of
    this one.

    With no `workers`, this process computes everything itself, without limits.
    """
    if workers < 1 or multiprocessing.current_process().daemon:  # a worker is isolated itself, and may have no children
        yield from (_result_or_refusal(function, item) for item in items)
        return
    pool, tasks, results = _Pool(function, workers, limits), enumerate(items), dict[int, R | UserError]()
    try:
        for number in itertools.count():
            while number not in results:
                pool.submit(tasks, ahead=len(results))
                if not pool.busy:
                    return
                results.update(pool.collect())
            yield results.pop(number)
    finally:
        pool.close()


def _result_or_refusal(function: Callable[[A], R], item: A) -> R | UserError:
    try:
        return function(item)
    except DiskFullError:
        raise
    except UserError as error:
        return error


class _Pool(Generic[A, R]):
    """Up to `size` workers, started when they are needed."""

    def __init__(self, function: Callable[[A], R], size: int, limits: Callable[[A], Limits]) -> None:
        self.busy: list[_Worker[A, R]] = []
        self._idle: list[_Worker[A, R]] = []
        self._function, self._size, self._limits = function, size, limits

    def submit(self, tasks: Iterator[tuple[int, A]], ahead: int) -> None:
        """Give the next numbered items to workers; `ahead` results already wait for an earlier one."""
        n_free = min(self._size - len(self.busy), self._size + 1 - len(self.busy) - ahead)
        for number, item in itertools.islice(tasks, n_free):
            if not self._idle:
                with _interrupt_deferred():  # half a start would leave a process that nobody stops
                    self._idle.append(_Worker(self._function))
            self.busy.append(self._idle.pop())
            self.busy[-1].start(number, item, self._limits(item))

    def collect(self) -> dict[int, R | UserError]:
        """Wait until a worker answers, dies or runs out of time; return the results by number."""
        remaining_s = min(worker.deadline_s for worker in self.busy) - time.monotonic()
        ready = wait([worker.connection for worker in self.busy], max(0.0, remaining_s))
        results = {}
        for worker in list(self.busy):
            if worker.connection in ready:
                results[worker.number] = worker.receive()
            elif time.monotonic() > worker.deadline_s:
                results[worker.number] = worker.time_out()
            else:
                continue
            self.busy.remove(worker)
            if worker.is_alive:
                self._idle.append(worker)
        return results

    def close(self) -> None:
        """Stop all workers."""
        for worker in (*self.busy, *self._idle):
            worker.kill()


class _Worker(Generic[A, R]):
    """A process that computes one item at a time; `number` is that of its current or last item."""

    def __init__(self, function: Callable[[A], R]) -> None:
        # Arrow's allocator takes 1 GiB at its first use, of which it may need little, unless it is told to wait.
        os.environ.setdefault("MIMALLOC_ARENA_EAGER_COMMIT", "0")
        context = multiprocessing.get_context("forkserver")  # fork would copy the locks of numpy's and Arrow's threads
        context.set_forkserver_preload([function.__module__])  # so that a further worker starts in milliseconds
        _start_fork_server()
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()  # the worker's death then closes the connection
        self.is_alive, self.number, self.deadline_s, self._limits = True, -1, 0.0, Limits(0, 0)

    def start(self, number: int, item: A, limits: Limits) -> None:
        """Send an item to the process."""
        self.number, self._limits, self.deadline_s = number, limits, time.monotonic() + limits.time_s
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died; receive() reports that
            self.connection.send((item, limits.memory_bytes))

    def receive(self) -> R | UserError:
        """Return the result that the process has sent, or why there is none."""
        outcome: Outcome
        try:
            outcome, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            self.kill()
            return _death(self._process.exitcode or 0)
        if outcome == "error":
            raise value
        if outcome == "out of memory":
            self.kill()  # its memory may be fragmented
            limit = f"{self._limits.memory_bytes:,} bytes of memory"
            return OutOfMemoryError(f"asks for more than {limit}; it is damaged or too large")
        result: R | UserError = value
        return result

    def time_out(self) -> UserError:
        """Stop a process that has run out of time, and return the reason."""
        self.kill()
        return UserError(f"took longer than {self._limits.time_s:g} s; it is damaged or too large")

    def kill(self) -> None:
        """End the process, whatever it does."""
        self.is_alive = False
        self._process.kill()
        self._process.join()
        self.connection.close()


def _start_fork_server() -> None:
    """Start the process that forks the workers, with SIGINT blocked, which children inherit.

    A terminal sends Ctrl-C to every process of the group; only this one shall answer it.
    """
    resource_tracker.ensure_running()  # its start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _interrupt_deferred() -> Iterator[None]:
    """Answer Ctrl-C at the end of the block; a signal mask would not do, as another thread may receive the signal."""
    if threading.current_thread() is not threading.main_thread():  # which is the one that answers
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if received:
            signal.raise_signal(signal.SIGINT)


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """Answer items until the connection closes; runs in the worker."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            item, memory_bytes = connection.recv()
            connection.send(_call(function, item, memory_bytes))


def _call(function: Callable[[Any], Any], item: Any, memory_bytes: int) -> tuple[Outcome, Any]:
    # RLIMIT_DATA counts what is allocated; RLIMIT_AS would count every mapped file and library, too.
    _, maximum = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + memory_bytes, maximum))
    try:
        return "result", function(item)
    except (OSError, TransientError, DiskFullError) as error:
        return "error", error
    except UserError as error:
        return "result", UserError(*error.args)
    except MemoryError:
        return "out of memory", None
    except Exception:  # sent as text, because not every exception can be pickled
        return "error", RuntimeError(f"in a worker process:\n{traceback.format_exc()}")
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (maximum, maximum))


def _data_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[5]) * resource.getpagesize()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # a parent that was killed cannot tell its workers
    os._exit(1)


def _death(code: int) -> UserError:
    if code == -signal.SIGKILL:
        return OutOfMemoryError(
            "the process that read it was killed, probably for lack of memory; free some or use fewer --workers"
        )
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return UserError(f"the process that read it died ({name}); it is damaged")
