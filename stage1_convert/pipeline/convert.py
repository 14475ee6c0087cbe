"""The conversion of many bags into one dataset, by several processes and independent of their number."""

import contextlib
import difflib
import fnmatch
import itertools
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import pyarrow as pa

from common.cli.command import UserError, one_line
from common.storage.allocator import keep_freed_memory
from common.storage.files import new_folder, require_ours
from common.storage.worker import Limits, OutOfMemoryError, map_isolated
from stage1_convert.bags.storage import limits_for
from stage1_convert.config import Config, DataConfig
from stage1_convert.dataset.record import RECORD_PATH, BagEntry, read_record
from stage1_convert.pipeline.assemble import Assembly, conversion_settings
from stage1_convert.pipeline.cache import cache_path, key_of, locked_cache, reuse
from stage1_convert.pipeline.convert_bag import Job, convert_bag
from stage1_convert.pipeline.progress import Progress
from stage1_convert.sources.folder import size_bytes
from stage1_convert.sources.source import BagInfo, BagSource, FetchedBag

KEPT_BYTES = 16 << 20  # several times what an image or a row group takes, and little beside the rest


class Options(NamedTuple):
    """How to convert, as far as the settings do not say it.

    `workers` is the number of processes besides this one; 0 converts in this one, where a bag may do harm. `shard` (i, n)
    takes every n-th bag, from the i-th on, counted from 1.
    """

    workers: int = 1
    strict: bool = False
    shard: tuple[int, int] = (1, 1)
    trust_images: bool = False


class ImageTotals(NamedTuple):
    """Sums over all episodes and cameras of what the record counts by these names."""

    repeated: int
    passed_over: int
    lost: int
    unavoidable: int


class Summary(NamedTuple):
    """What a conversion gave; `refused` and `warnings` are pairs of a bag's name and what is wrong with it.

    `bad_messages` were left out of the bags that are converted.
    """

    bags: int
    episodes: int
    frames: int
    refused: list[tuple[str, str]]
    warnings: list[tuple[str, str]]
    reused: int
    images: ImageTotals
    bad_messages: int
    hint: str = ""  # what may help the refused ones


class RefusedError(UserError):
    """Too little could be converted; `refused` holds pairs of a bag's name and the reason."""

    def __init__(self, text: str, refused: list[tuple[str, str]]) -> None:
        super().__init__(text)
        self.refused = refused


def convert(source: BagSource, out: Path, config: Config, options: Options) -> Summary:
    """Convert the bags of `source` into a dataset that takes the name `out` when it is complete.

    A bag that cannot be converted is left out and reported; one that was converted before, alike, is not converted
    again. A shard without an episode leaves its record, for a merge. Raises UserError when there are no bags or `out` is
    unfit, and its subclass RefusedError when no bag can be converted or, with `strict`, not every one.
    """
    out = out.resolve()
    bags = select(source.bags, config.data, options.shard)
    check_apart(source.root, out)
    require_ours(out, "converted dataset", sign=RECORD_PATH)
    with locked_cache(out) as cache:
        record = read_record(out)
        reuse(out, record.bags if record else [], cache)
        before = {path.name for path in cache.iterdir()}
        job = Job(cache, cache / "progress", config, options.trust_images)
        progress = Progress(job.progress, [bag.size_bytes for bag in bags])
        with new_folder(out, manifest=False) as root:
            assembly = Assembly(root, cache, config)
            entries = _convert_bags(source, bags, job, options.workers)
            with progress.shown(), contextlib.closing(entries):
                for entry in entries:
                    assembly.add(entry)
            reused = sum(entry.is_converted and entry.key in before for entry in assembly.bags)
            summary = summarize(assembly, reused)
            summary = summary._replace(hint=source.hint([bag for bag, _ in summary.refused]))
            _require_enough(summary, out, options)
            assembly.finish(conversion_settings(config, options.trust_images), options.workers)
    return summary


def select(bags: Sequence[BagInfo], data: DataConfig, shard: tuple[int, int] = (1, 1)) -> list[BagInfo]:
    """Return the bags that data.include and data.exclude leave, and of these those of a shard.

    A shard may be empty, where there are more shards than bags. Raises UserError when data.include and data.exclude leave
    no bag, and when data.episodes names one that does not exist.
    """
    chosen = [
        bag
        for bag in bags
        if (not data.include or _matches(bag.name, data.include)) and not _matches(bag.name, data.exclude)
    ]
    if not chosen:
        raise UserError(
            f"data.include and data.exclude leave none of the {len(bags)} bags; the first is {bags[0].name}"
        )
    names = [bag.name for bag in bags]
    for name in data.episodes:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1) or names[:1]
            raise UserError(f"data.episodes.{name}: there is no such bag among the {len(bags)}; there is {close[0]}")
    part, parts = shard
    return chosen[part - 1 :: parts]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check_apart(src: Path, out: Path, flag: str = "--src") -> None:
    """Raise UserError when a source and the dataset are inside each other."""
    if out == src or out in src.parents or src in out.parents:
        raise UserError(f"--out {out} and {flag} {src} lie inside each other; choose another --out")


def summarize(assembly: Assembly, reused: int) -> Summary:
    """Return what an assembly holds so far."""
    bags = assembly.bags
    refused = [(bag.bag, bag.reason or "") for bag in bags if not bag.is_converted]
    warnings = [(bag.bag, warning) for bag in bags for warning in bag.warnings]
    images = ImageTotals(*(_sum_images(bags, name) for name in ImageTotals._fields))
    bad = sum(bag.n_bad_messages for bag in bags if bag.is_converted)
    return Summary(len(bags), assembly.n_episodes, assembly.n_frames, refused, warnings, reused, images, bad)


def _sum_images(bags: Sequence[BagEntry], name: str) -> int:
    """Return the sum of a count over the cameras, which alone are in EpisodeEntry.passed_over."""
    episodes = [episode for bag in bags for episode in bag.episodes]
    return sum(getattr(episode, name).get(camera, 0) for episode in episodes for camera in episode.passed_over)


def require_episodes(summary: Summary) -> None:
    """Raise RefusedError when nothing could be converted."""
    if not summary.episodes:
        first = "; the first: bag {}: {}".format(*summary.refused[0]) if summary.refused else ""
        hint = f"; {summary.hint}" if summary.hint else ""
        raise RefusedError(f"none of the {summary.bags} bags could be converted{first}{hint}", summary.refused)


def _require_enough(summary: Summary, out: Path, options: Options) -> None:
    refused = summary.refused
    if options.shard == (1, 1):
        require_episodes(summary)
    if refused and options.strict:
        text = f"{len(refused)} of {summary.bags} bags are refused and --strict is given: {out} is not written; "
        text += f"the others are kept in {cache_path(out)} for the next run"
        raise RefusedError(text, refused)


class _Task(NamedTuple):
    """A bag to convert, the `number`-th."""

    bag: FetchedBag
    number: int
    job: Job


def _convert_bags(
    source: BagSource, bags: Sequence[BagInfo], job: Job, workers: int
) -> Generator[BagEntry, None, None]:
    """Yield the entry of each bag, in the order of `bags`, and release each bag that is done.

    A bag that crashes its worker process is refused like any other damaged one.
    """

    def is_done(bag: str, sums: Mapping[str, str]) -> bool:
        return (job.cache / key_of(bag, sums, job.config, job.trust_images)).exists()

    with contextlib.closing(source), contextlib.closing(source.fetch(bags, is_done)) as fetched:
        tasks, pending = itertools.tee(_Task(bag, number, job) for number, bag in enumerate(fetched))
        with contextlib.closing(map_isolated(_convert, tasks, min(workers, len(bags)), _limits)) as results:
            for result, done in zip(results, pending, strict=True):
                entry = _refuse(done, result) if isinstance(result, UserError) else result
                source.release(done.bag.source, entry.sha256 or None)
                yield entry


def _convert(task: _Task) -> BagEntry | UserError:
    if task.bag.fault:
        return UserError(task.bag.fault)
    cv2.setNumThreads(1)
    pa.set_cpu_count(1)
    keep_freed_memory(KEPT_BYTES)
    return convert_bag(task.bag.source, task.number, task.job, task.bag.sums)


def _refuse(task: _Task, reason: UserError) -> BagEntry:
    Progress(task.job.progress).plan(task.number, 0)
    text = one_line(reason)
    if isinstance(reason, OutOfMemoryError):
        size = size_bytes(task.bag.source.path)
        text += f"; the bag has {size:,} bytes: split a long one into several bags with `ros2 bag convert`"
    return BagEntry(bag=task.bag.source.name, status="refused", reason=text, warnings=[], episodes=[])


def _limits(task: _Task) -> Limits:
    return limits_for(size_bytes(task.bag.source.path))
