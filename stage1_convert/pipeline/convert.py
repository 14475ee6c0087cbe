"""A folder of bags in; one dataset, converted by several processes and independent of their number, out."""

import contextlib
import difflib
import fnmatch
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import pyarrow as pa

from common.cli.command import UserError, one_line
from common.storage.files import new_folder, require_ours
from common.storage.worker import Limits, map_isolated
from stage1_convert.bags.storage import limits_for
from stage1_convert.config import Config, DataConfig
from stage1_convert.pipeline.assemble import SIZE_FAULT, Assembly, head, task_of
from stage1_convert.pipeline.board import Progress
from stage1_convert.pipeline.cache import REPORT, adopt, key_of, parts_folder, parts_path
from stage1_convert.pipeline.convert_bag import Job, Outcome, convert_bag
from stage1_convert.pipeline.progress import shown_progress
from stage1_convert.pipeline.space import check_space
from stage1_convert.sources.folder import size_bytes
from stage1_convert.sources.source import BagInfo, BagSource, FetchedBag


class Options(NamedTuple):
    """How to convert, as far as the result does not depend on it or it is not a matter of the bags' content.

    `workers` is the number of processes besides this one; 0 converts in this one, where a bag may do harm. `shard` (i, n)
    takes every n-th bag, from the i-th on, counted from 1.
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


def convert(supply: BagSource, out: Path, config: Config, options: Options) -> Summary:
    """Convert the bags of `supply` into a dataset that takes the name `out` when it is complete.

    A bag that cannot be converted is left out and reported; one that was converted before, alike, is not converted
    again. A shard without an episode leaves its record, for merge. Raises UserError when there are no bags or `out` is
    unfit, and its subclass RefusedError when no bag can be converted or, with `strict`, not every one.
    """
    out = out.resolve()
    offers = select(supply.bags, config.data, options.shard)
    check_apart(supply.root, out)
    require_ours(out, "converted dataset", sign=REPORT)
    check_space(offers, out, config, options.workers)
    with parts_folder(out) as parts:
        refused = _refusals(adopt(out, parts))
        before = {path.name for path in parts.iterdir()}
        job = Job(parts, parts / "board", config, options.trust_images)
        board = Progress(job.board, [offer.size_bytes for offer in offers])
        with new_folder(out, manifest=False) as root:
            assembly = Assembly(root, parts, config)
            outcomes = _outcomes(supply, offers, job, options.workers, refused)
            with shown_progress(board, len(offers)), contextlib.closing(outcomes):
                reused = sum(_take(assembly, board, at, outcome) in before for at, outcome in enumerate(outcomes))
            summary = summarize(assembly, reused)
            _require_enough(summary, out, options)
            assembly.finish(head(config, options.trust_images))
    return summary


def select(offers: Sequence[BagInfo], data: DataConfig, shard: tuple[int, int] = (1, 1)) -> list[BagInfo]:
    """Return the bags that data.include and data.exclude leave, and of these those of a shard: none where there are more
    shards than bags.

    Raises UserError when data.include and data.exclude leave none, and when data.episodes names one that is not there.
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
    names = [offer.name for offer in offers]
    for name in data.episodes:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1) or names[:1]
            raise UserError(f"data.episodes.{name}: there is no such bag among the {len(offers)}; there is {close[0]}")
    part, parts = shard
    return chosen[part - 1 :: parts]


def check_apart(src: Path, out: Path) -> None:
    """Raise UserError when the source and the dataset lie inside each other."""
    if out == src or out in src.parents or src in out.parents:
        raise UserError(f"--out {out} and --src {src} lie inside each other; choose another --out")


def summarize(assembly: Assembly, reused: int) -> Summary:
    """Return what an assembly holds so far."""
    reports, writer = assembly.reports, assembly.writer
    refused = [(report["bag"], report["reason"]) for report in reports if report["status"] == "refused"]
    warnings = [(report["bag"], warning) for report in reports for warning in report["warnings"]]
    episodes, frames = (writer.n_episodes, writer.n_frames) if writer else (0, 0)
    return Summary(len(reports), episodes, frames, refused, warnings, reused)


def require_episodes(summary: Summary) -> None:
    """Raise RefusedError when nothing could be converted."""
    if not summary.episodes:
        first = "; the first: bag {}: {}".format(*summary.refused[0]) if summary.refused else ""
        raise RefusedError(f"none of the {summary.bags} bags could be converted{first}", summary.refused)


def _require_enough(summary: Summary, out: Path, options: Options) -> None:
    refused = summary.refused
    if options.shard == (1, 1):
        require_episodes(summary)
    if refused and options.strict:
        text = f"{len(refused)} of {summary.bags} bags are refused and --strict is given: {out} is not written; "
        text += f"the others wait in {parts_path(out)} for the next run"
        raise RefusedError(text, refused)


def _take(assembly: Assembly, board: Progress, at: int, outcome: Outcome) -> str | None:
    """Take one bag's outcome into the dataset; returns the key of its part."""
    if outcome.key is None:
        assembly.refuse(outcome.bag, outcome.report)
    elif not assembly.add(outcome.bag, outcome.key):
        board.plan(at, 0, 0)
    return outcome.key


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _refusals(bags: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what was told of refused bags by the names that their parts would have, but for those that other bags or the
    machine refused.
    """
    placed = ("bag", "status", "episodes")
    return {
        bag["key"]: {name: value for name, value in bag.items() if name not in placed}
        for bag in bags
        if bag["status"] == "refused" and "key" in bag and not str(bag["reason"]).endswith(SIZE_FAULT)
    }


class _Todo(NamedTuple):
    bag: FetchedBag
    number: int
    task_index: int
    job: Job
    refusal: dict[str, Any] | None  # what was told of a bag that has not come again


def _outcomes(
    supply: BagSource, offers: Sequence[BagInfo], job: Job, workers: int, refused: Mapping[str, dict[str, Any]]
) -> Generator[Outcome, None, None]:
    """Yield what became of each bag, in the order of `offers`; a bag that is done goes back to its supply.

    One that would have to come only to be `refused` again stays away. A bag that takes the process that reads it with it, in
    whatever way, is refused like any other damaged one.
    """
    tasks: dict[str, int] = {}
    named = [tasks.setdefault(task_of(offer.name, {}, job.config), len(tasks)) for offer in offers]
    taken: deque[_Todo] = deque()

    def key(bag: str, sums: Mapping[str, str]) -> str:
        return key_of(bag, sums, job.config, job.trust_images)

    def is_done(bag: str, sums: Mapping[str, str]) -> bool:
        return (job.parts / key(bag, sums)).exists() or key(bag, sums) in refused

    def todo() -> Iterator[_Todo]:
        for bag, number, task_index in zip(bags, range(len(offers)), named, strict=True):
            refusal = refused.get(key(bag.source.name, bag.sums)) if bag.sums else None
            taken.append(_Todo(bag, number, task_index, job, refusal))
            yield taken[-1]

    with contextlib.closing(supply.fetch(offers, is_done)) as bags:
        here = workers < 1
        results = map(_convert, todo()) if here else map_isolated(_convert, todo(), min(workers, len(offers)), _limits)
        with contextlib.nullcontext() if here else contextlib.closing(results):  # type: ignore[type-var]
            for result in results:
                done = taken.popleft()
                outcome = _refusal(done, result) if isinstance(result, UserError) else result
                supply.release(done.bag.source, outcome.report.get("sha256"))
                yield outcome


def _refusal(todo: _Todo, reason: UserError) -> Outcome:
    Progress(todo.job.board).plan(todo.number, 0, 0)
    return Outcome(todo.bag.source.name, None, {"reason": one_line(reason), "warnings": []})


def _convert(todo: _Todo) -> Outcome | UserError:
    if todo.bag.fault:
        return UserError(todo.bag.fault)
    if todo.refusal:
        Progress(todo.job.board).plan(todo.number, 0, 0)
        return Outcome(todo.bag.source.name, None, todo.refusal)
    cv2.setNumThreads(1)
    pa.set_cpu_count(1)
    return convert_bag(todo.bag.source, todo.number, todo.task_index, todo.job, todo.bag.sums)


def _limits(todo: _Todo) -> Limits:
    return limits_for(size_bytes(todo.bag.source.path))
