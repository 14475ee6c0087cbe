"""Estimates what a conversion would make of each bag, and how large the dataset would get, without writing it."""

import contextlib
import itertools
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.cli.command import UserError, one_line, progress
from common.storage.files import free_bytes
from common.storage.worker import Limits, map_isolated
from stage1_convert.align.split import Span
from stage1_convert.bags.bag import open_bag
from stage1_convert.bags.storage import limits_for
from stage1_convert.config import Config
from stage1_convert.dataset.video_file import VideoFile
from stage1_convert.pipeline.convert_bag import BagPlan, plan_bag
from stage1_convert.pipeline.frames import FrameReader
from stage1_convert.sources.folder import size_bytes
from stage1_convert.sources.source import BagInfo, BagSource, FetchedBag, Source

SAMPLED_FRAMES = 8
SAMPLED_S = 10  # they are taken from so much of the beginning: reading stops behind it
VIDEO_FRAMES = 60  # a video's size shows only over frames that follow each other
SHOWN_GAPS = 5


class BagEstimate(NamedTuple):
    """What a conversion would make of one bag; `refused` is the reason why it would make nothing."""

    bag: str
    refused: str | None
    frames: list[int]
    gaps: list[str]
    left_out: int
    size_bytes: float
    warnings: list[str]


def dry_run(source: BagSource, bags: Sequence[BagInfo], config: Config, out: Path | None) -> int:
    """Print what would be converted; returns the exit code, 2 when nothing would be or the disk is too small.

    Bags that are not on this disk are downloaded: only a whole bag shows what would become of it. Free space is that of
    the disk that would hold `out`, or the current folder.
    """
    missing_bytes = source.missing_bytes(bags)
    if missing_bytes:
        print(f"download  {missing_bytes / 1e6:,.1f} MB to {source.root}: a dry run reads whole bags", flush=True)
    found = list(_estimates(source, bags, config))
    for line in (line for estimate in found for line in _describe(estimate, config.data.fps)):
        print(line)
    episodes, size_bytes = [n for one in found for n in one.frames], sum(one.size_bytes for one in found)
    refused = sum(one.refused is not None for one in found)
    folder = (out or Path()).resolve()
    left_bytes = free_bytes(folder)
    print()
    print(f"bags      {len(found) - refused} would be converted, {refused} refused")
    print(f"episodes  {len(episodes)}")
    print(f"frames    {sum(episodes)}, {sum(episodes) / config.data.fps:.1f} s at {config.data.fps} fps")
    print(f"dataset   about {size_bytes / 1e6:,.1f} MB; {left_bytes / 1e6:,.1f} MB are free at {folder}")
    if size_bytes >= left_bytes:
        print(f"disk too small: free {(size_bytes - left_bytes) / 1e6:,.1f} MB or choose another --out")
    return 2 if not episodes or size_bytes >= left_bytes else 0


def _estimates(source: BagSource, bags: Sequence[BagInfo], config: Config) -> Iterator[BagEstimate]:
    """Yield the estimate of each bag, and release the bag."""
    taken = deque[FetchedBag]()

    def asked() -> Iterator[Asked]:
        for bag in progress(fetched, len(bags), "plan", "bag"):
            taken.append(bag)
            yield bag, config

    with (
        contextlib.closing(source.fetch(bags, lambda _name, _sums: False)) as fetched,
        contextlib.closing(map_isolated(_estimate, asked(), 1, _limits)) as answers,
    ):
        for answer in answers:
            bag = taken.popleft().source
            source.release(bag, None)
            yield _refused(bag, answer) if isinstance(answer, UserError) else answer


Asked = tuple[FetchedBag, Config]


def _estimate(asked: Asked) -> BagEstimate:
    bag, config = asked
    return _refused(bag.source, UserError(bag.fault)) if bag.fault else forecast(bag.source, config)


def _refused(source: Source, reason: UserError) -> BagEstimate:
    return BagEstimate(source.name, one_line(reason), [], [], 0, 0, [])


def _limits(asked: Asked) -> Limits:
    bag, _ = asked
    return limits_for(size_bytes(bag.source.path))


def forecast(source: Source, config: Config) -> BagEstimate:
    """Read a bag's stamps and numbers, and a few of its images."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            plan = plan_bag(source, config, Path(scratch))
        with tempfile.TemporaryDirectory() as scratch:
            image_bytes = _image_bytes(source, plan, config, Path(scratch))
    except UserError as error:
        return _refused(source, error)
    frames = [span.frames for span in plan.plan.episodes]
    numbers = len(config.state_names) + len(config.action_names)
    row_bytes = 4 * numbers + 36 + 16 * (1 + len(config.streams))  # and the traces of meta/sync
    gaps = [
        f"a gap of {gap.frames} frames after {(gap.start_ns - int(plan.plan.ticks_ns[0])) / 1e9:.2f} s: nothing "
        f"from {', '.join(gap.streams)}"
        for gap in plan.plan.gaps
    ]
    left_out = sum(span.frames for span in plan.plan.left_out)
    size_bytes = sum(frames) * (row_bytes + image_bytes)
    return BagEstimate(source.name, None, frames, gaps, left_out, size_bytes, plan.entry.warnings)


def _image_bytes(source: Source, plan: BagPlan, config: Config, scratch: Path) -> float:
    """Return the bytes that a frame's images take, of all cameras, from the beginning of the first episode."""
    first, video = plan.plan.episodes[0], config.data.storage == "video"
    stop = min(first.stop, first.start + SAMPLED_S * config.data.fps)
    ticks = np.unique(np.linspace(first.start, stop - 1, SAMPLED_FRAMES).astype(int)).tolist()
    if video:
        ticks = list(range(first.start, min(first.stop, first.start + VIDEO_FRAMES)))
    spans = [Span(tick, tick + 1, "start") for tick in ticks]
    with open_bag(source.path, scratch, config.data.ros_distro) as bag:
        reader = FrameReader(bag, plan.bag_streams, plan.plan._replace(episodes=spans), config, trust_images=False)
        frames = list(itertools.islice(reader.frames(), len(spans)))
    if not video:
        return sum(len(image.data) for frame in frames for image in frame.values()) / len(frames)
    size_bytes = 0
    for camera, size in reader.sizes.items():
        file = VideoFile(scratch / f"{camera}.mp4", size, config.data.fps)
        for frame in frames:
            image = frame[camera].image
            assert image is not None
            file.add(image)
        file.close()
        size_bytes += (scratch / f"{camera}.mp4").stat().st_size
    return size_bytes / len(frames)


def _describe(one: BagEstimate, fps: int) -> list[str]:
    if one.refused is not None:
        return [f"bag {one.bag}: refused: {one.refused}"]
    lengths = ", ".join(f"{frames / fps:.1f}" for frames in one.frames)
    left = f", {one.left_out} frames left out" if one.left_out else ""
    lines = [
        f"bag {one.bag}: {len(one.frames)} episode{'s' * (len(one.frames) != 1)} of {lengths} s, {sum(one.frames)} frames"
        f"{left}, about {one.size_bytes / 1e6:.1f} MB"
    ]
    lines += [f"  {gap}" for gap in one.gaps[:SHOWN_GAPS]]
    if len(one.gaps) > SHOWN_GAPS:
        lines.append(f"  and {len(one.gaps) - SHOWN_GAPS} more gaps")
    return lines + [f"  warning: {warning}" for warning in one.warnings]
