"""A folder of bags in; one dataset, converted by several processes and independent of their number, out."""

import contextlib
import fnmatch
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import pyarrow as pa

from common.command import UserError
from common.files import new_folder
from stage1_convert.assemble import Assembly, task_of
from stage1_convert.board import Board
from stage1_convert.config import Config, DataConfig
from stage1_convert.episode import Job, Outcome, convert_bag
from stage1_convert.memory import keep_blocks
from stage1_convert.parts import REPORT, adopt, parts_folder, parts_path
from stage1_convert.progress import shown_progress
from stage1_convert.source import Source, find_bags


class Options(NamedTuple):
    """How to convert, as far as the result does not depend on it or it is not a matter of the bags' content.

    `shard` (i, n) takes every n-th bag, from the i-th on, counted from 1.
    """

    workers: int = 1
    strict: bool = False
    shard: tuple[int, int] = (1, 1)
    trust_images: bool = False


class Summary(NamedTuple):
    """What a conversion gave; `refused` and `warnings` are pairs of a bag's name and what is wrong with it."""

    bags: int
    episodes: int
    frames: int
    refused: list[tuple[str, str]]
    warnings: list[tuple[str, str]]
    reused: int


class RefusedError(UserError):
    """Too little could be converted; `refused` holds pairs of a bag's name and the reason."""

    def __init__(self, text: str, refused: list[tuple[str, str]]) -> None:
        super().__init__(text)
        self.refused = refused


def convert(src: Path, out: Path, config: Config, options: Options) -> Summary:
    """Convert the bags below `src` into a dataset that takes the name `out` when it is complete.

    A bag that cannot be converted is left out and reported; one that was converted before, alike, is not converted
    again. Raises UserError when `src` or `out` is unfit, and its subclass RefusedError when no bag can be converted
    or, with `strict`, not every one.
    """
    src, out = src.resolve(), out.resolve()
    sources = select(find_bags(src), config.data, options.shard)
    check_apart(src, out)
    check_out(out)
    with parts_folder(out) as parts:
        adopt(out, parts)
        before = {path.name for path in parts.iterdir()}
        job = Job(parts, parts / "board", config, options.trust_images)
        board = Board(job.board, [_size_bytes(source.path) for source in sources])
        with new_folder(out, manifest=False) as root:
            assembly = Assembly(root, parts, config)
            with shown_progress(board, len(sources)), contextlib.closing(_outcomes(sources, job, options)) as outcomes:
                reused = sum(_take(assembly, board, at, outcome) in before for at, outcome in enumerate(outcomes))
            summary = summarise(assembly, reused)
            _require_enough(summary, out, options.strict)
            assembly.finish(options.trust_images)
    return summary


def select(sources: Sequence[Source], data: DataConfig, shard: tuple[int, int] = (1, 1)) -> list[Source]:
    """Return the bags that data.include and data.exclude leave, and of these those of a shard.

    Raises UserError when none is left.
    """
    chosen = [
        source
        for source in sources
        if (not data.include or _matches(source.name, data.include)) and not _matches(source.name, data.exclude)
    ]
    if not chosen:
        raise UserError(
            f"data.include and data.exclude leave none of the {len(sources)} bags; the first is {sources[0].name}"
        )
    part, parts = shard
    mine = chosen[part - 1 :: parts]
    if not mine:
        raise UserError(f"--shard {part}/{parts} is empty: there are {len(chosen)} bags")
    return mine


def check_apart(src: Path, out: Path) -> None:
    """Raise UserError when the source and the dataset lie inside each other."""
    if out == src or out in src.parents or src in out.parents:
        raise UserError(f"--out {out} and --src {src} lie inside each other; choose another --out")


def check_out(out: Path) -> None:
    """Raise UserError when `out` holds anything but a dataset of ours, or cannot be written."""
    if out.exists() and not (out / REPORT).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} holds something else than a converted dataset; choose another --out or remove it")
    parent = next(folder for folder in out.parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise UserError(f"--out {out} cannot be made: {parent} is not a folder that may be written to")


def summarise(assembly: Assembly, reused: int) -> Summary:
    """Return what an assembly holds so far."""
    reports, writer = assembly.reports, assembly.writer
    refused = [(report["bag"], report["reason"]) for report in reports if report["status"] == "refused"]
    warnings = [(report["bag"], warning) for report in reports for warning in report["warnings"]]
    episodes, frames = (writer.n_episodes, writer.n_frames) if writer else (0, 0)
    return Summary(len(reports), episodes, frames, refused, warnings, reused)


def _require_enough(summary: Summary, out: Path, strict: bool) -> None:
    refused = summary.refused
    if not summary.episodes:
        first = "bag {}: {}".format(*refused[0])
        raise RefusedError(f"none of the {summary.bags} bags could be converted; the first: {first}", refused)
    if refused and strict:
        text = f"{len(refused)} of {summary.bags} bags are refused and --strict is given: {out} is not written; "
        text += f"the others wait in {parts_path(out)} for the next run"
        raise RefusedError(text, refused)


def _take(assembly: Assembly, board: Board, at: int, outcome: Outcome) -> str | None:
    """Take one bag's outcome into the dataset; returns the key of its part."""
    if outcome.key is None:
        assembly.refuse(outcome.bag, outcome.report)
    elif not assembly.add(outcome.bag, outcome.key):
        board.plan(at, 0, 0)
    return outcome.key


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _size_bytes(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _outcomes(sources: Sequence[Source], job: Job, options: Options) -> Generator[Outcome, None, None]:
    """Yield what became of each bag, in the order of `sources`."""
    tasks: dict[str, int] = {}
    named = [tasks.setdefault(task_of(source.name, {}, job.config), len(tasks)) for source in sources]
    todo = zip(sources, range(len(sources)), named, strict=True)
    if min(options.workers, len(sources)) <= 1:
        keep_blocks()
        for source, number, task_index in todo:
            yield convert_bag(source, number, task_index, job)
        return
    context = multiprocessing.get_context("spawn")  # fork would copy the threads of numpy, OpenCV and Arrow halfway
    pool = ProcessPoolExecutor(min(options.workers, len(sources)), context, initializer=_become_worker)
    try:
        yield from _in_order(pool, todo, job, 2 * options.workers)
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker process died, probably for want of memory; run again with fewer than --workers {options.workers}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, todo: Iterable[tuple[Source, int, int]], job: Job, ahead: int
) -> Iterator[Outcome]:
    """Yield the outcomes in the order of `todo`, of which at most `ahead` are taken before they are needed."""
    waiting: deque[Future[Outcome]] = deque()
    for source, number, task_index in todo:
        waiting.append(pool.submit(convert_bag, source, number, task_index, job))
        while len(waiting) >= ahead or (waiting and waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _become_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is answered once, by the parent
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    keep_blocks()
    cv2.setNumThreads(1)
    pa.set_cpu_count(1)


def _leave_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # a parent that was killed cannot tell its workers, who would wait for work for ever
    os._exit(1)
