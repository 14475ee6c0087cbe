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
from stage1_convert.source import Source
from stage1_convert.supply import Offer, Supply


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


def convert(supply: Supply, out: Path, config: Config, options: Options) -> Summary:
    """Convert the bags of `supply` into a dataset that takes the name `out` when it is complete.

    A bag that cannot be converted is left out and reported; one that was converted before, alike, is not converted
    again. Raises UserError when there are no bags or `out` is unfit, and its subclass RefusedError when no bag can be
    converted or, with `strict`, not every one.
    """
    out = out.resolve()
    offers = select(supply.offers, config.data, options.shard)
    check_apart(supply.root, out)
    check_out(out)
    with parts_folder(out) as parts:
        adopt(out, parts)
        before = {path.name for path in parts.iterdir()}
        job = Job(parts, parts / "board", config, options.trust_images)
        board = Board(job.board, [offer.size_bytes for offer in offers])
        with new_folder(out, manifest=False) as root:
            assembly = Assembly(root, parts, config)
            outcomes = _outcomes(supply, offers, job, options.workers)
            with shown_progress(board, len(offers)), contextlib.closing(outcomes):
                reused = sum(_take(assembly, board, at, outcome) in before for at, outcome in enumerate(outcomes))
            summary = summarise(assembly, reused)
            _require_enough(summary, out, options.strict)
            assembly.finish(options.trust_images)
    return summary


def select(offers: Sequence[Offer], data: DataConfig, shard: tuple[int, int] = (1, 1)) -> list[Offer]:
    """Return the bags that data.include and data.exclude leave, and of these those of a shard.

    Raises UserError when none is left.
    """
    chosen = [
        offer
        for offer in offers
        if (not data.include or _matches(offer.name, data.include)) and not _matches(offer.name, data.exclude)
    ]
    if not chosen:
        raise UserError(
            f"data.include and data.exclude leave none of the {len(offers)} bags; the first is {offers[0].name}"
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


def _outcomes(supply: Supply, offers: Sequence[Offer], job: Job, workers: int) -> Generator[Outcome, None, None]:
    """Yield what became of each bag, in the order of `offers`; a bag that is done goes back to its supply."""
    tasks: dict[str, int] = {}
    named = [tasks.setdefault(task_of(offer.name, {}, job.config), len(tasks)) for offer in offers]
    with contextlib.closing(supply.fetch(offers)) as sources:
        todo = zip(sources, range(len(offers)), named, strict=True)
        if min(workers, len(offers)) > 1:
            yield from _in_order(supply, todo, job, min(workers, len(offers)))
            return
        keep_blocks()
        for source, number, task_index in todo:
            outcome = convert_bag(source, number, task_index, job)
            supply.release(source)
            yield outcome


def _in_order(supply: Supply, todo: Iterable[tuple[Source, int, int]], job: Job, workers: int) -> Iterator[Outcome]:
    """Convert in `workers` processes and yield the outcomes in the order of `todo`, which is taken when needed."""
    context = multiprocessing.get_context("spawn")  # fork would copy the threads of numpy, OpenCV and Arrow halfway
    pool = ProcessPoolExecutor(workers, context, initializer=_become_worker)
    waiting: deque[tuple[Source, Future[Outcome]]] = deque()
    try:
        for source, number, task_index in todo:
            waiting.append((source, pool.submit(convert_bag, source, number, task_index, job)))
            while len(waiting) > 2 * workers or (waiting and waiting[0][1].done()):
                yield _finish(supply, *waiting.popleft())
        while waiting:
            yield _finish(supply, *waiting.popleft())
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker process died, probably for want of memory; run again with fewer than --workers {workers}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _finish(supply: Supply, source: Source, future: Future[Outcome]) -> Outcome:
    outcome = future.result()
    supply.release(source)
    return outcome


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
