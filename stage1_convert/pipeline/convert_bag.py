"""The conversion of one bag into the cache: its episodes on disk, under the offset that they will probably have in a dataset.

The bag is read twice: first all but its images, which decides what each frame shows, then the images, one at a time. When
some of these are damaged, the frames are planned again without them and the images read again, until all are whole.
"""

import itertools
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.command import UserError, one_line
from common.lerobot.metadata import ACTION, IMAGES, STATE
from common.report.formatting import counted
from common.storage.disk import DiskFullError, free_bytes
from common.storage.files import sha256
from stage1_convert.align import state_action
from stage1_convert.bags.bag import Bag
from stage1_convert.bags.storage import content_files, storage_format
from stage1_convert.config import Config
from stage1_convert.dataset.episode_file import GROUP_BYTES, EpisodeOffset, EpisodeWriter, data_schema
from stage1_convert.dataset.image_column import ImageColumnWriter, StoredImage
from stage1_convert.dataset.record import BagEntry, EpisodeEntry
from stage1_convert.dataset.schema import describe_features
from stage1_convert.dataset.stats import Stats
from stage1_convert.images.range_use import range_warnings
from stage1_convert.pipeline.assemble import task_of
from stage1_convert.pipeline.cache import (
    ConvertedBag,
    episode_files,
    key_of,
    new_converted_bag,
    read_converted,
    write_converted,
)
from stage1_convert.pipeline.frames import BadImagesError, FrameReader
from stage1_convert.pipeline.plan_bag import describe_final, open_by_settings, plan_streams, read_and_plan
from stage1_convert.pipeline.progress import Progress
from stage1_convert.sources.folder import size_bytes
from stage1_convert.sources.source import BagPath
from stage1_convert.streams.arrays import Float64
from stage1_convert.streams.bad_messages import require_few
from stage1_convert.streams.stream import without

BATCH_ROWS = 64
SMALLEST_SHARE = 1 / 20  # of a bag's bytes: about what raw images take as JPEGs


class Job(NamedTuple):
    """What is the same for all bags of a conversion: where converted bags and progress go, and how to convert."""

    cache: Path
    progress: Path
    config: Config
    trust_images: bool


def convert_bag(source: BagPath, number: int, job: Job, sums: Mapping[str, str] | None = None) -> BagEntry:
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
            _convert_new(source, number, job, entry)
        else:
            known = read_converted(job.cache / entry.key).entry
            task = task_of(source.name, known.custom_data, job.config)
            progress.plan(number, sum(episode.frames for episode in known.episodes), len(known.episodes), task)
    except DiskFullError:
        raise  # no fault of the bag's
    except UserError as error:
        progress.plan(number, 0)
        entry.status, entry.reason, entry.episodes = "refused", one_line(error), []
    return entry


def _convert_new(source: BagPath, number: int, job: Job, entry: BagEntry) -> None:
    """Convert a bag that is not in the cache, and fill in its entry."""
    assert entry.key is not None
    with new_converted_bag(job.cache, entry.key) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        with open_by_settings(source, scratch, job.config.data) as bag:
            try:
                image_stats = _BagConversion(bag, folder, number, job, entry).run()
            finally:
                entry.warnings += bag.warnings
        shutil.rmtree(scratch)
        write_converted(folder, ConvertedBag(entry=entry, image_stats=image_stats))


def _require_space(source: BagPath, cache: Path) -> None:
    """Raise DiskFullError when the disk certainly is too full for a bag."""
    left_bytes, needed_bytes = free_bytes(cache), int(size_bytes(source.path) * SMALLEST_SHARE)
    if left_bytes < needed_bytes:
        raise DiskFullError(
            f"disk full: {cache} has {left_bytes:,} bytes free, and bag {source.name} needs at least {needed_bytes:,}; "
            "free some space or choose another --out"
        )


def _checksums(path: Path) -> dict[str, str]:
    try:
        return {file.name: sha256(file) for file in content_files(path)}
    except OSError as error:
        raise UserError(
            f"cannot be read: {one_line(error)}; make it readable, or leave it out by data.exclude"
        ) from error


class _BagConversion:
    """The conversion of one open bag into a folder, and into its entry."""

    def __init__(self, bag: Bag, folder: Path, number: int, job: Job, entry: BagEntry) -> None:
        self._bag, self._folder, self._number, self._job, self._entry = bag, folder, number, job, entry
        self._config = job.config
        self._progress = Progress(job.progress)
        self._written = 0
        self._looked_at: dict[str, set[int]] = {name: set() for name in job.config.data.cameras}
        started_s = time.monotonic()
        self._streams, self._plan = read_and_plan(bag, job.config, entry)
        self._plan_s = time.monotonic() - started_s
        self._start()

    def run(self) -> list[dict[str, Stats]]:
        """Write every episode and return their image statistics."""
        while True:
            try:
                found = [self._write(number) for number in range(len(self._plan.episodes))]
                break
            except BadImagesError:
                self._plan_again()
        describe_final(self._streams, self._plan, self._images, self._looked_at, self._config, self._entry)
        for name, odd in self._reader.odd.items():
            self._entry.warnings.append(
                f"camera {name}: {counted(len(odd), 'image')} with something odd that is no damage, the first one message "
                f"{odd[0].number} stamped {odd[0].stamp_ns} ns: {odd[0].reason}"
            )
        self._entry.compressed, self._entry.sizes = sorted(self._reader.compressed), self._reader.sizes
        self._entry.warnings += range_warnings(self._reader.ranges, self._config.data)
        self._entry.episodes = [episode for episode, _ in found]
        return [stats for _, stats in found]

    def _start(self) -> None:
        """Begin to read the images of the frames as they are planned now."""
        lengths = [span.frames for span in self._plan.episodes]
        task = task_of(self._entry.bag, self._bag.custom, self._config)
        self._progress.plan(self._number, sum(lengths), len(lengths), task)
        # Bags that were begun together are planned at about the same time.
        self._offset = self._progress.offset(self._number, wait_s=self._plan_s)
        self._images = state_action.describe_images(self._streams.clocks, self._plan, self._config.data)
        trust, looked_at = self._job.trust_images, self._looked_at
        self._reader = FrameReader(self._bag, self._streams, self._plan, self._config, trust, looked_at)
        self._frames = self._reader.frames()

    def _plan_again(self) -> None:
        """Plan the frames without the images that are damaged; raises UserError when they are too many."""
        for name, found in self._reader.bad.items():
            bad = sorted([*self._streams.streams[name].bad, *found])
            looked_at = self._looked_at[name].union(message.number for message in bad)
            require_few(f"camera {name}", bad, len(looked_at))
        self._streams = without(self._streams, self._reader.bad, self._config)
        for path in self._folder.glob("[0-9]*"):
            path.unlink()  # before the next attempt: an unfinished file may still be open
        self._progress.add(self._number, -self._written)
        self._written = 0
        self._plan = plan_streams(self._streams, self._config, self._entry)
        self._start()

    def _write(self, number: int) -> tuple[EpisodeEntry, dict[str, Stats]]:
        """Write the `number`-th episode: its rows, the messages its frames show, and its videos."""
        config, span = self._config, self._plan.episodes[number]
        files = episode_files(self._folder, number, [], {})
        shown = state_action.provenance(self._streams, self._plan, span)
        pq.write_table(pa.table(shown), files.sync)
        images = {
            camera: ImageColumnWriter(self._folder / f"{number:03d}.{camera}.mp4", config.data, span.frames)
            for camera in config.data.cameras
        }
        numbers = state_action.states_actions(self._streams, self._plan, span, config)
        self._write_rows(files.rows, _columns(numbers, shown, config), images, span.frames)
        counts = self._images[number]
        entry = EpisodeEntry(
            frames=span.frames,
            start_ns=int(shown["tick_ns"][0]),
            begins=span.reason,
            **state_action.describe_ages(shown, self._streams.streams),
            passed_over={camera: count.passed_over for camera, count in counts.items()},
            identical={camera: writer.identical for camera, writer in images.items()},
            lost={camera: count.lost for camera, count in counts.items()},
            unavoidable={camera: count.unavoidable for camera, count in counts.items()},
            excess={camera: count.excess for camera, count in counts.items()},
        )
        return entry, {camera: writer.close() for camera, writer in images.items()}

    def _write_rows(
        self, path: Path, columns: Mapping[str, pa.Array], images: Mapping[str, ImageColumnWriter], length: int
    ) -> None:
        rows: EpisodeWriter | None = None
        for first, stop in _batches(self._frames, images, length):
            stored = {IMAGES + camera: writer.column(stop - first) for camera, writer in images.items()}
            batch = {name: column[first:stop] for name, column in columns.items()}
            batch |= {key: column for key, column in stored.items() if column is not None}
            if rows is None:  # the images' sizes are known from the first frame on
                schema = data_schema(describe_features(self._config, self._reader.sizes))
                rows = EpisodeWriter(path, schema, self._offset)
            rows.add(pa.record_batch(batch))
            self._progress.add(self._number, stop - first)
            self._written += stop - first
        assert rows is not None
        rows.close()
        episode, frame, task = self._offset
        self._offset = EpisodeOffset(episode + 1, frame + length, task)


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


def _columns(numbers: state_action.StatesActions, shown: dict[str, Any], config: Config) -> dict[str, pa.Array]:
    """Return an episode's columns but for its images and its offset."""
    frames = shown["frame_index"]
    columns = {STATE: _vectors(numbers.states), ACTION: _vectors(numbers.actions)}
    if config.data.sync_columns:
        for stream in config.streams:
            age_ms = state_action.oldest_age_ms(shown, stream)
            columns[f"sync.{stream}_age_ms"] = pa.array(age_ms.astype(np.float32))
    columns["timestamp"] = pa.array((frames / config.data.fps).astype(np.float32))
    return {**columns, "frame_index": pa.array(frames)}


def _vectors(values: Float64) -> pa.Array:
    """Return vectors (frames, dimensions) as a column; LeRobot stores those of one number as plain numbers."""
    numbers, size = pa.array(values.astype(np.float32).ravel()), values.shape[1]
    return numbers if size == 1 else pa.FixedSizeListArray.from_arrays(numbers, size)
