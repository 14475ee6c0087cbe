"""One bag in; its part, episodes on disk that have no place in a dataset yet, or the reason why there is none, out.

The bag is read twice: first its stamps and numbers, which decide what each frame shows, then the images, one at a time.
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
from common.storage.files import DiskFullError, sha256
from stage1_convert.align import state_action
from stage1_convert.align.episodes import EpisodePlan, choose, make_plan
from stage1_convert.align.streams import BagStreams, Stream, read_streams
from stage1_convert.bags.bag import Bag, open_bag
from stage1_convert.bags.storage import SIDECARS, storage_files, storage_format
from stage1_convert.config import JOINTS, Config
from stage1_convert.dataset.episode_file import GROUP_BYTES, EpisodeOffset, RowFile, schema_of
from stage1_convert.dataset.image_column import ImageColumnWriter, StoredImage
from stage1_convert.dataset.schema import describe_features
from stage1_convert.dataset.writer import EpisodeFiles
from stage1_convert.images.video_topic import starts_video
from stage1_convert.pipeline.board import Progress
from stage1_convert.pipeline.cache import ConvertedBag, key_of, new_part, piece_in, read_part, write_record
from stage1_convert.pipeline.frames import FrameReader
from stage1_convert.sources.source import Source

BATCH_ROWS = 64


class Job(NamedTuple):
    """What is the same for all bags of a conversion: where the parts and the board lie, and how to convert."""

    parts: Path
    board: Path
    config: Config
    trust_images: bool


class Outcome(NamedTuple):
    """What became of a bag: the key of its part and the sha256 of its files, or None and what is known, with the reason."""

    bag: str
    key: str | None
    report: dict[str, Any]


def convert_bag(
    source: Source, number: int, task_index: int, job: Job, sums: Mapping[str, str] | None = None
) -> Outcome:
    """Convert one bag, the `number`-th, unless its part is there already; one that is known by its `sums` is not read."""
    board, report = Progress(job.board), dict[str, Any](warnings=[])
    try:
        sums = sums or _fingerprint(source.path)
        key = key_of(source.name, sums, job.config, job.trust_images)
        if not (job.parts / key).exists():
            report |= {"key": key, "storage": storage_format(" ".join(sums)), "sha256": sums}
            with new_part(job.parts, key) as folder:
                start = board.guess(number, task_index)
                _Conversion(folder, job, report, board, number).run(source, start)
        pieces = read_part(job.parts / key).pieces
    except DiskFullError:
        raise  # no fault of the bag's
    except UserError as error:
        board.plan(number, 0, 0)
        if _may_pass(error):
            report.pop("key", None)
        return Outcome(source.name, None, {"reason": one_line(error), **report})
    board.plan(number, len(pieces), sum(piece.report["frames"] for piece in pieces))
    return Outcome(source.name, key, {"sha256": sums})


def _may_pass(error: BaseException | None) -> bool:
    """Tell whether what refused a bag may be the machine's fault and not the bag's."""
    while error and not isinstance(error, OSError | MemoryError | sqlite3.OperationalError):
        error = error.__cause__
    return error is not None


class BagPlan(NamedTuple):
    """What a conversion would make of a bag: its topics' messages, clocks, episodes and gaps (as in conversion.json),
    the grid, the streams and the sizes of its files in bytes.
    """

    report: dict[str, Any]
    bag_streams: BagStreams
    plan: EpisodePlan


def plan_bag(source: Source, config: Config, scratch: Path) -> BagPlan:
    """Return what a conversion would make of a bag, from one reading that leaves the images alone.

    Raises UserError as the conversion would, but for damaged images; `scratch` is an existing folder.
    """
    report: dict[str, Any] = {"warnings": []}
    with open_bag(source.path, scratch, config.data.ros_distro) as bag:
        bag_streams, plan = _read_and_plan(bag, source.name, config, report)
        report["warnings"] += bag.warnings
    report["episodes"] = [
        {"frames": span.frames, "start_ns": int(plan.ticks_ns[span.start]), "begins": span.reason}
        for span in plan.episodes
    ]
    return BagPlan(report, bag_streams, plan)


def _fingerprint(path: Path) -> dict[str, str]:
    files = [*storage_files(path), *path.glob("metadata.yaml")] if path.is_dir() else [path]
    logs = [file.with_name(file.name + ending) for file in files for ending in SIDECARS]
    try:
        files += [log for log in logs if log.is_file() and log.stat().st_size]
        return {file.name: sha256(file) for file in files}
    except OSError as error:
        raise UserError(f"cannot be read: {one_line(error)}") from error


def _read_and_plan(bag: Bag, called: str, config: Config, report: dict[str, Any]) -> tuple[BagStreams, EpisodePlan]:
    """Read the streams, plan the episodes, and fill in what conversion.json tells of them."""
    report["custom_data"] = bag.custom
    bag_streams = read_streams(bag, config, starts_video)
    messages = report["messages"] = dict[str, Any]()
    for stream in bag_streams.streams.values():
        declared = bag.topics[stream.topic].declared
        messages[stream.topic] = {"declared": declared, "read": stream.read, "used": 0}
        if stream.read != declared:
            report["warnings"].append(f"topic {stream.topic}: {declared} messages declared, {stream.read} read")
    report["clock"] = {name: _describe_clock(stream) for name, stream in bag_streams.streams.items()}
    angles = bag_streams.streams[JOINTS].values[:, : len(config.conventions.joint_order)]
    plan = make_plan(bag_streams.clocks, angles, bag_streams.markers_ns, config)
    if called in config.data.episodes:
        plan = choose(plan, config.data.episodes[called])
    first_ns = min(int(clock.stamps_ns[0]) for clock in bag_streams.clocks.values())
    last_ns = max(int(clock.stamps_ns[-1]) for clock in bag_streams.clocks.values())
    report["warm_up_s"] = round((int(plan.ticks_ns[0]) - first_ns) / 1e9, 6)
    report["tail_s"] = round((last_ns - int(plan.ticks_ns[-1])) / 1e9, 6)
    report["gaps"] = [gap._asdict() for gap in plan.gaps]
    report["left_out"] = [
        {"start_ns": int(plan.ticks_ns[span.start]), "frames": span.frames, "reason": span.reason}
        for span in plan.left_out
    ]
    for name, stream in bag_streams.streams.items():
        used = len(np.unique(plan.shown(name)))
        messages[stream.topic]["used"] = max(messages[stream.topic]["used"], used)
    state_action.check_numbers(bag_streams, plan, config)
    return bag_streams, plan


def _describe_clock(stream: Stream) -> dict[str, Any]:
    clock = {key: value for key, value in stream.clock._asdict().items() if key != "stamps_ns"}
    stamps_ns = stream.clock.stamps_ns
    return {**clock, "first_ns": int(stamps_ns[0]), "last_ns": int(stamps_ns[-1])}


class _Conversion:
    """The conversion of one bag into the folder of its part."""

    def __init__(self, folder: Path, job: Job, report: dict[str, Any], board: Progress, number: int) -> None:
        self._folder, self._config, self._trust = folder, job.config, job.trust_images
        self._report, self._board, self._number = report, board, number

    def run(self, source: Source, start: EpisodeOffset) -> None:
        """Convert the bag; its first episode gets the numbers `start`, the others follow."""
        scratch = self._folder / "scratch"
        scratch.mkdir()
        with open_bag(source.path, scratch, self._config.data.ros_distro) as bag:
            try:
                bag_streams, plan = _read_and_plan(bag, source.name, self._config, self._report)
                lengths = [span.frames for span in plan.episodes]
                self._board.plan(self._number, len(lengths), sum(lengths))
                reader = FrameReader(bag, bag_streams, plan, self._config, self._trust)
                frames, pieces = reader.frames(), []
                for at in range(len(lengths)):
                    first = start.first_index + sum(lengths[:at])
                    numbers = EpisodeOffset(start.episode_index + at, first, start.task_index)
                    pieces.append(self._write(at, bag_streams, plan, reader, frames, numbers))
            finally:
                self._report["warnings"] += bag.warnings
        shutil.rmtree(scratch)
        self._report["compressed"] = sorted(reader.compressed)
        write_record(self._folder, ConvertedBag(self._report, reader.sizes, pieces))

    def _write(
        self,
        at: int,
        bag_streams: BagStreams,
        plan: EpisodePlan,
        reader: FrameReader,
        frames: Iterator[dict[str, StoredImage]],
        place: EpisodeOffset,
    ) -> EpisodeFiles:
        """Write the `at`-th episode: its rows, the sources of its frames and its videos."""
        config, span = self._config, plan.episodes[at]
        sources = state_action.provenance(bag_streams, plan, span)
        reels = {
            camera: ImageColumnWriter(self._folder / f"{at:03d}.{camera}.mp4", config.data)
            for camera in config.data.cameras
        }
        piece = piece_in(self._folder, at, (), {}, {})
        pq.write_table(pa.table(sources), piece.sources)
        values = _columns(state_action.states_actions(bag_streams, plan, span, config), sources, config)
        file: RowFile | None = None
        for first, stop in _batches(frames, reels, span.frames):
            columns = {name: column[first:stop] for name, column in values.items()}
            images = {IMAGES + camera: reel.column(stop - first) for camera, reel in reels.items()}
            columns |= {key: column for key, column in images.items() if column is not None}
            file = file or RowFile(piece.rows, schema_of(describe_features(config, reader.sizes)), place)
            file.add(pa.record_batch(columns))
            self._board.wrote(self._number, stop - first)
        assert file is not None
        file.close()
        report = {"frames": span.frames, "start_ns": int(sources["tick_ns"][0]), "begins": span.reason}
        report |= state_action.describe_ages(sources, list(reels), bag_streams.streams)
        report["repeated"] = {camera: reel.repeated for camera, reel in reels.items()}
        return piece._replace(images={camera: reel.close() for camera, reel in reels.items()}, report=report)


def _batches(
    frames: Iterator[dict[str, StoredImage]], reels: Mapping[str, ImageColumnWriter], length: int
) -> Iterator[tuple[int, int]]:
    """Hand the next `length` frames to the reels; yield ranges of rows of at most BATCH_ROWS, or about a row group."""
    first = 0
    while first < length:
        most = stop = min(first + BATCH_ROWS, length)
        for row, images in enumerate(itertools.islice(frames, most - first), first + 1):
            for camera, reel in reels.items():
                reel.add(images[camera])
            if sum(reel.waiting_bytes for reel in reels.values()) >= GROUP_BYTES:
                stop = row
                break
        yield first, stop
        first = stop


def _columns(numbers: state_action.StatesActions, sources: dict[str, Any], config: Config) -> dict[str, pa.Array]:
    """Return an episode's columns but for its images and its place."""
    frames = sources["frame_index"]
    columns = {STATE: _vectors(numbers.states), ACTION: _vectors(numbers.actions)}
    if config.data.sync_columns:
        for stream, age in state_action.ages_ms(sources, config.streams).items():
            columns[f"sync.{stream}_age_ms"] = pa.array(age.astype(np.float32))
    columns["timestamp"] = pa.array((frames / config.data.fps).astype(np.float32))
    return {**columns, "frame_index": pa.array(frames)}


def _vectors(values: Any) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), values.shape[1])
