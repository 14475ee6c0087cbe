"""A function and items in; the results out, in the items' order, each computed where it can do no harm.

Foreign data can crash the library that parses it, make it loop, or let it ask for all memory. Each call runs in a process
with a memory and a time limit; when that dies or is stopped, its item's result is the reason, and the others go on.
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
from typing import Any, Generic, NamedTuple, TypeVar

from common.cli.command import TransientError, UserError
from common.storage.files import DiskFullError

A = TypeVar("A")
R = TypeVar("R")


class OutOfMemoryError(UserError):
    """A call asked for more memory than it may take, or its process was killed, probably for lack of memory."""


class Limits(NamedTuple):
    """What one call may take: memory on top of what the process has at its start (mapped files are free), and time."""

    memory_bytes: int
    time_s: float


def map_isolated(
    function: Callable[[A], R], items: Iterable[A], workers: int, limits: Callable[[A], Limits]
) -> Generator[R | UserError, None, None]:
    """Yield function(item) for every item, in order; a UserError takes the place of a result that could not be had.

    `function` must be importable. A UserError that it raises is its result, unless a disk is full, for which no item can do
    anything; what else it raises, apart from MemoryError, is raised here. Items are taken when they are needed, at most one
    more than there are workers before their results are. Closing the generator stops every process, and so does the death
    of this one.
    """
    if multiprocessing.current_process().daemon:  # such a process already, which may have no children
        yield from map(_in_this_process(function), items)
        return
    todo, done = enumerate(items), dict[int, R | UserError]()
    pool: list[_Worker[A, R]] = []
    try:
        for number in itertools.count():
            while number not in done:
                running = sum(worker.number is not None for worker in pool)
                for at, item in itertools.islice(todo, min(workers - running, workers + 1 - running - len(done))):
                    _idle(pool, function).give(at, item, limits(item))
                if all(worker.number is None for worker in pool):
                    return
                done.update(_collect(pool))
            yield done.pop(number)
    finally:
        for worker in pool:
            worker.stop()


def _in_this_process(function: Callable[[A], R]) -> Callable[[A], R | UserError]:
    def call(item: A) -> R | UserError:
        try:
            return function(item)
        except UserError as error:
            return error

    return call


def _idle(pool: "list[_Worker[A, R]]", function: Callable[[A], R]) -> "_Worker[A, R]":
    for worker in pool:
        if worker.number is None:
            return worker
    with _ctrl_c_later():  # half a start would leave a process that complains of what it was told, or that nobody stops
        pool.append(_Worker(function))
    return pool[-1]


def _collect(pool: "list[_Worker[Any, Any]]") -> dict[int, Any]:
    """Wait until a worker has something to say or has run out of time; workers that are lost leave the pool."""
    busy = [worker for worker in pool if worker.number is not None]
    left_s = min(worker.deadline_s for worker in busy) - time.monotonic()
    spoken = wait([worker.connection for worker in busy], max(0.0, left_s))
    found = {}
    for worker in busy:
        late = time.monotonic() > worker.deadline_s
        if worker.connection in spoken or late:
            assert worker.number is not None
            found[worker.number] = worker.take() if worker.connection in spoken else worker.give_up()
            worker.number = None
            if worker.is_lost:
                worker.stop()
                pool.remove(worker)
    return found


class _Worker(Generic[A, R]):
    """A process that computes one item at a time; `number` is the item's, None while it is idle."""

    def __init__(self, function: Callable[[A], R]) -> None:
        # Arrow's allocator takes 1 GiB at its first use, of which it may need little, unless it is told to wait.
        os.environ.setdefault("MIMALLOC_ARENA_EAGER_COMMIT", "0")
        context = multiprocessing.get_context("forkserver")  # fork would copy the threads of numpy and Arrow halfway
        context.set_forkserver_preload([function.__module__])  # so that another worker costs milliseconds
        _start_server()
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()  # the worker's death is then the end of the connection
        self.number: int | None = None
        self.deadline_s = 0.0
        self.is_lost = False
        self._limits = Limits(0, 0)

    def give(self, number: int, item: A, limits: Limits) -> None:
        """Let the process begin with an item."""
        self.number, self._limits, self.deadline_s = number, limits, time.monotonic() + limits.time_s
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died: take() will say so
            self.connection.send((item, limits.memory_bytes))

    def take(self) -> R | UserError:
        """Return what the process has sent, or why it never will."""
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.is_lost = True
            self._process.join()
            return _death(self._process.exitcode or 0)
        if kind == "error":
            raise value
        if kind == "memory":
            self.is_lost = True  # what is left of its memory may be in pieces
            return OutOfMemoryError(
                f"asks for more than {self._limits.memory_bytes:,} bytes of memory; it is damaged or too large"
            )
        result: R | UserError = value
        return result

    def give_up(self) -> UserError:
        """Stop a process that has run out of time."""
        self.is_lost = True
        return UserError(f"took longer than {self._limits.time_s:g} s; it is damaged or too large")

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _start_server() -> None:
    """Start the process that forks the workers, if it does not run, so that Ctrl-C is answered once, by this one: signals
    that are blocked stay so in children, from their first moment on."""
    resource_tracker.ensure_running()  # would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Answer Ctrl-C at the end of the block; a mask would not do, as any other thread can be given the signal."""
    if threading.current_thread() is not threading.main_thread():  # it is not the one that answers
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        with contextlib.ExitStack() as answers:  # the second one ends the process at once, though the first one raises
            for number in pressed:
                answers.callback(signal.raise_signal, number)


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            item, memory_bytes = connection.recv()
            connection.send(_answer(function, item, memory_bytes))


def _answer(function: Callable[[Any], Any], item: Any, memory_bytes: int) -> tuple[str, Any]:
    # RLIMIT_DATA counts what is allocated; RLIMIT_AS would count every mapped file and library, too.
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + memory_bytes, most))
    try:
        return "result", function(item)
    except (OSError, TransientError, DiskFullError) as error:
        return "error", error
    except UserError as error:
        return "result", UserError(*error.args)
    except MemoryError:
        return "memory", None
    except Exception:  # a bug travels as text: not every exception survives the way
        return "error", RuntimeError(f"in a worker process:\n{traceback.format_exc()}")
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _data_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[5]) * resource.getpagesize()


def _leave_with_parent() -> None:
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
