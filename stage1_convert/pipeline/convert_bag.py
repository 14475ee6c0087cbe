"""The conversion of one bag into the cache: its episodes on disk, before they have an offset in a dataset.

The bag is read twice: first all but its images, which decides what each frame shows, then the images, one at a time.
"""

import itertools
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.command import UserError, one_line
from common.lerobot.dataset import ACTION, IMAGES, STATE
from common.storage.files import DiskFullError, free_bytes, sha256
from stage1_convert.align import state_action
from stage1_convert.align.episodes import EpisodePlan, choose, make_plan
from stage1_convert.align.streams import BagStreams, read_streams
from stage1_convert.bags.bag import Bag, open_bag
from stage1_convert.bags.storage import SIDECARS, storage_files, storage_format
from stage1_convert.config import JOINTS, Config
from stage1_convert.dataset.episode_file import GROUP_BYTES, EpisodeWriter, data_schema
from stage1_convert.dataset.image_column import ImageColumnWriter, StoredImage
from stage1_convert.dataset.record import BagEntry, ClockEntry, EpisodeEntry, Gap, LeftOut, MessageCount
from stage1_convert.dataset.schema import describe_features
from stage1_convert.dataset.stats import Stats
from stage1_convert.images.video_topic import starts_video
from stage1_convert.pipeline.cache import (
    ConvertedBag,
    episode_files,
    key_of,
    new_converted_bag,
    read_converted,
    write_converted,
)
from stage1_convert.pipeline.frames import FrameReader
from stage1_convert.pipeline.progress import Progress
from stage1_convert.sources.folder import size_bytes
from stage1_convert.sources.source import Source

BATCH_ROWS = 64
SMALLEST_SHARE = 1 / 20  # of a bag's bytes: about what raw images take as JPEGs


class Job(NamedTuple):
    """What is the same for all bags of a conversion: where converted bags and progress go, and how to convert."""

    cache: Path
    progress: Path
    config: Config
    trust_images: bool


def convert_bag(source: Source, number: int, job: Job, sums: Mapping[str, str] | None = None) -> BagEntry:
    """Convert one bag, the `number`-th, into the cache unless it is there already.

    Returns its entry: converted, with the key in the cache, or refused, with the reason. `sums` are the sha256 of the bag's
    files where they are known: a bag that is in the cache by them is not read. Raises DiskFullError.
    """
    progress = Progress(job.progress)
    entry = BagEntry(bag=source.name, status="converted", reason=None, warnings=[])
    try:
        sums = dict(sums or _checksums(source.path))
        entry.key = key_of(source.name, sums, job.config, job.trust_images)
        entry.storage, entry.sha256 = storage_format(" ".join(sums)), sums
        if not (job.cache / entry.key).exists():
            _require_space(source, job.cache)
            with new_converted_bag(job.cache, entry.key) as folder:
                _BagConversion(folder, job, entry, progress, number).run(source)
        frames = sum(episode.frames for episode in read_converted(job.cache / entry.key).entry.episodes)
    except DiskFullError:
        raise  # no fault of the bag's
    except UserError as error:
        progress.plan(number, 0)
        entry.status, entry.reason, entry.episodes = "refused", one_line(error), []
        if _is_temporary(error):
            entry.key = None
        return entry
    progress.plan(number, frames)
    return entry


def _is_temporary(error: BaseException | None) -> bool:
    """Return whether what refused a bag may be the machine's fault and not the bag's."""
    while error and not isinstance(error, OSError | MemoryError | sqlite3.OperationalError):
        error = error.__cause__
    return error is not None


def _require_space(source: Source, cache: Path) -> None:
    """Raise DiskFullError when the disk certainly is too full for a bag."""
    left_bytes, needed_bytes = free_bytes(cache), int(size_bytes(source.path) * SMALLEST_SHARE)
    if left_bytes < needed_bytes:
        raise DiskFullError(
            f"disk full: {cache} has {left_bytes:,} bytes free, and bag {source.name} needs at least {needed_bytes:,}; "
            "free some space or choose another --out"
        )


def _checksums(path: Path) -> dict[str, str]:
    files = [*storage_files(path), *path.glob("metadata.yaml")] if path.is_dir() else [path]
    logs = [file.with_name(file.name + ending) for file in files for ending in SIDECARS]
    try:
        files += [log for log in logs if log.is_file() and log.stat().st_size]
        return {file.name: sha256(file) for file in files}
    except OSError as error:
        raise UserError(f"cannot be read: {one_line(error)}") from error


class BagPlan(NamedTuple):
    """What a conversion would make of a bag: its entry, its streams, and its frames."""

    entry: BagEntry
    bag_streams: BagStreams
    plan: EpisodePlan


def plan_bag(source: Source, config: Config, scratch: Path) -> BagPlan:
    """Return what a conversion would make of a bag, from one reading that skips the images.

    Raises UserError as the conversion would, but for damaged images; `scratch` is an existing folder.
    """
    entry = BagEntry(bag=source.name, status="converted", reason=None, warnings=[])
    with open_bag(source.path, scratch, config.data.ros_distro) as bag:
        bag_streams, plan = _read_and_plan(bag, config, entry)
        entry.warnings += bag.warnings
    return BagPlan(entry, bag_streams, plan)


def _read_and_plan(bag: Bag, config: Config, entry: BagEntry) -> tuple[BagStreams, EpisodePlan]:
    """Read the streams, plan the episodes, and fill in what the entry says of them."""
    entry.custom_data = bag.custom
    bag_streams = read_streams(bag, config, starts_video)
    streams, clocks = bag_streams.streams, bag_streams.clocks
    entry.messages = {}
    for stream in streams.values():
        declared = bag.topics[stream.topic].declared
        entry.messages[stream.topic] = MessageCount(declared=declared, read=stream.read, used=0)
        if stream.read != declared:
            entry.warnings.append(f"topic {stream.topic}: {declared} messages declared, {stream.read} read")
    entry.clock = {
        name: ClockEntry(
            source=clock.source,
            reason=clock.reason,
            latency_ms=clock.latency_ms,
            first_ns=int(clock.stamps_ns[0]),
            last_ns=int(clock.stamps_ns[-1]),
        )
        for name, clock in clocks.items()
    }
    angles = streams[JOINTS].values[:, : len(config.conventions.joint_order)]
    plan = make_plan(clocks, angles, bag_streams.markers_ns, config)
    if entry.bag in config.data.episodes:
        plan = choose(plan, config.data.episodes[entry.bag])
    first_ns = min(clock.first_ns for clock in entry.clock.values())
    last_ns = max(clock.last_ns for clock in entry.clock.values())
    entry.warm_up_s = round((int(plan.ticks_ns[0]) - first_ns) / 1e9, 6)
    entry.tail_s = round((last_ns - int(plan.ticks_ns[-1])) / 1e9, 6)
    entry.gaps = [Gap.model_validate(gap) for gap in plan.gaps]
    entry.left_out = [
        LeftOut(start_ns=int(plan.ticks_ns[span.start]), frames=span.frames, reason=span.reason)
        for span in plan.left_out
    ]
    for name, stream in streams.items():
        count = entry.messages[stream.topic]
        count.used = max(count.used, len(np.unique(plan.shown(name))))
    state_action.check_numbers(bag_streams, plan, config)
    return bag_streams, plan


class _BagConversion:
    """The conversion of one bag into a folder, and into its entry."""

    def __init__(self, folder: Path, job: Job, entry: BagEntry, progress: Progress, number: int) -> None:
        self._folder, self._config, self._trust = folder, job.config, job.trust_images
        self._entry, self._progress, self._number = entry, progress, number

    def run(self, source: Source) -> None:
        """Write the episodes and the record."""
        scratch = self._folder / "scratch"
        scratch.mkdir()
        with open_bag(source.path, scratch, self._config.data.ros_distro) as bag:
            try:
                bag_streams, plan = _read_and_plan(bag, self._config, self._entry)
                self._progress.plan(self._number, sum(span.frames for span in plan.episodes))
                reader = FrameReader(bag, bag_streams, plan, self._config, self._trust)
                frames = reader.frames()
                written = [
                    self._write(episode, bag_streams, plan, reader, frames) for episode in range(len(plan.episodes))
                ]
            finally:
                self._entry.warnings += bag.warnings
        shutil.rmtree(scratch)
        self._entry.compressed = sorted(reader.compressed)
        self._entry.sizes = reader.sizes
        self._entry.episodes = [episode for episode, _ in written]
        write_converted(self._folder, ConvertedBag(entry=self._entry, image_stats=[stats for _, stats in written]))

    def _write(
        self,
        number: int,
        bag_streams: BagStreams,
        plan: EpisodePlan,
        reader: FrameReader,
        frames: Iterator[dict[str, StoredImage]],
    ) -> tuple[EpisodeEntry, dict[str, Stats]]:
        """Write the `number`-th episode: its rows, the messages its frames show, and its videos."""
        config, span = self._config, plan.episodes[number]
        sources = state_action.provenance(bag_streams, plan, span)
        files = episode_files(self._folder, number, [], {})
        pq.write_table(pa.table(sources), files.sync)
        images = {
            camera: ImageColumnWriter(self._folder / f"{number:03d}.{camera}.mp4", config.data, span.frames)
            for camera in config.data.cameras
        }
        values = _columns(state_action.states_actions(bag_streams, plan, span, config), sources, config)
        rows: EpisodeWriter | None = None
        for first, stop in _batches(frames, images, span.frames):
            columns = {name: column[first:stop] for name, column in values.items()}
            stored = {IMAGES + camera: writer.column(stop - first) for camera, writer in images.items()}
            columns |= {key: column for key, column in stored.items() if column is not None}
            rows = rows or EpisodeWriter(files.rows, data_schema(describe_features(config, reader.sizes)))
            rows.add(pa.record_batch(columns))
            self._progress.add(self._number, stop - first)
        assert rows is not None
        rows.close()
        entry = EpisodeEntry(
            frames=span.frames,
            start_ns=int(sources["tick_ns"][0]),
            begins=span.reason,
            **state_action.describe_ages(sources, list(images), bag_streams.streams),
            repeated={camera: writer.repeated for camera, writer in images.items()},
        )
        return entry, {camera: writer.close() for camera, writer in images.items()}


def _batches(
    frames: Iterator[dict[str, StoredImage]], images: Mapping[str, ImageColumnWriter], length: int
) -> Iterator[tuple[int, int]]:
    """Hand the next `length` frames to the writers of their images.

    Yields ranges of rows, each of at most BATCH_ROWS or about one row group.
    """
    first = 0
    while first < length:
        stop = min(first + BATCH_ROWS, length)
        for row, shown in enumerate(itertools.islice(frames, stop - first), first + 1):
            for camera, writer in images.items():
                writer.add(shown[camera])
            if sum(writer.waiting_bytes for writer in images.values()) >= GROUP_BYTES:
                stop = row
                break
        yield first, stop
        first = stop


def _columns(numbers: state_action.StatesActions, sources: dict[str, Any], config: Config) -> dict[str, pa.Array]:
    """Return an episode's columns but for its images and its offset."""
    frames = sources["frame_index"]
    columns = {STATE: _vectors(numbers.states), ACTION: _vectors(numbers.actions)}
    if config.data.sync_columns:
        for stream, age in state_action.ages_ms(sources, config.streams).items():
            columns[f"sync.{stream}_age_ms"] = pa.array(age.astype(np.float32))
    columns["timestamp"] = pa.array((frames / config.data.fps).astype(np.float32))
    return {**columns, "frame_index": pa.array(frames)}


def _vectors(values: Any) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), values.shape[1])
