"""Bags in; what a conversion would make of each, how large the dataset gets and what is free, out. Nothing is written.

Bags that are not on this disk are told of by what metadata.yaml or the end of an .mcap file says, and are not brought.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.cli.command import UserError, one_line, progress
from common.storage.files import free_bytes
from common.storage.worker import Limits, map_isolated
from stage1_convert.align.split import Span
from stage1_convert.align.streams import find_topics
from stage1_convert.bags.bag import Bag, declared, open_bag
from stage1_convert.bags.storage import limits_for
from stage1_convert.config import Config
from stage1_convert.dataset.video_file import VideoFile
from stage1_convert.pipeline.convert_bag import BagPlan, plan_bag
from stage1_convert.pipeline.frames import FrameReader
from stage1_convert.sources.folder import Source, size_bytes
from stage1_convert.sources.source import Absent

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


class Outlook(NamedTuple):
    """What is known of a bag that is not on this disk: `refused` as above, how long it is, and each stream's messages."""

    bag: str
    refused: str | None
    download_bytes: int
    seconds: float
    messages: dict[str, int]


def dry_run(bags: Iterable[Source | Absent], count: int, config: Config, out: Path | None) -> int:
    """Print what would be converted; returns the exit code, 2 when nothing would be or the disk is too small.

    Free space is that of the disk that would hold `out`, or the current folder.
    """
    names: list[str] = []
    with contextlib.closing(map_isolated(_foretell, _asked(bags, count, config, names), 1, _limits)) as answers:
        found = [
            BagEstimate(names[at], one_line(one), [], [], 0, 0, []) if isinstance(one, UserError) else one
            for at, one in enumerate(answers)
        ]
    for line in (line for one in found for line in _describe(one, config.data.fps)):
        print(line)
    here = [one for one in found if isinstance(one, BagEstimate)]
    away = [one for one in found if isinstance(one, Outlook) and one.refused is None]
    episodes, size_bytes = [n for one in here for n in one.frames], sum(one.size_bytes for one in here)
    refused = sum(one.refused is not None for one in found)
    folder = (out or Path()).resolve()
    left_bytes = free_bytes(folder)
    print()
    print(f"bags      {len(found) - refused - len(away)} would be converted, {refused} refused")
    if away:
        print(f"download  {len(away)} more, {sum(one.download_bytes for one in away) / 1e6:,.1f} MB: not counted below")
    print(f"episodes  {len(episodes)}")
    print(f"frames    {sum(episodes)}, {sum(episodes) / config.data.fps:.1f} s at {config.data.fps} fps")
    print(f"dataset   about {size_bytes / 1e6:,.1f} MB; {left_bytes / 1e6:,.1f} MB are free at {folder}")
    if size_bytes >= left_bytes:
        print(f"disk too small: free {(size_bytes - left_bytes) / 1e6:,.1f} MB or choose another --out")
    return 2 if not (episodes or away) or size_bytes >= left_bytes else 0


Asked = tuple[Source | Absent, Config]


def _asked(bags: Iterable[Source | Absent], count: int, config: Config, names: list[str]) -> Iterator[Asked]:
    for bag in progress(bags, count, "plan", "bag"):
        names.append(bag.name)
        yield bag, config


def _foretell(asked: Asked) -> BagEstimate | Outlook:
    bag, config = asked
    return forecast(bag, config) if isinstance(bag, Source) else foresee(bag, config)


def _limits(asked: Asked) -> Limits:
    bag, _ = asked
    return limits_for(size_bytes(bag.path) if isinstance(bag, Source) else bag.size_bytes)


def foresee(bag: Absent, config: Config) -> Outlook:
    """Look for the topics of every stream in what is known of a bag that is not here."""
    seconds, messages = 0.0, dict[str, int]()
    if bag.fault:
        return Outlook(bag.name, bag.fault, bag.size_bytes, seconds, messages)
    try:
        with tempfile.TemporaryDirectory() as scratch, _opened(bag, Path(scratch), config) as known:
            if known is not None and known.topics:
                seconds = known.seconds
                messages = {name: known.topics[of].declared for name, of in find_topics(known, config).items()}
    except UserError as error:
        return Outlook(bag.name, one_line(error), bag.size_bytes, seconds, {})
    return Outlook(bag.name, None, bag.size_bytes, seconds, messages)


@contextlib.contextmanager
def _opened(bag: Absent, scratch: Path, config: Config) -> Iterator[Bag | None]:
    """Open what is known of a bag: files of their true size, with holes where nothing is known."""
    for name, (size, pieces) in bag.files.items():
        with (scratch / name).open("wb") as file:
            file.truncate(size)
            for offset, data in pieces:
                file.seek(offset)
                file.write(data)
    if "metadata.yaml" in bag.files:
        yield declared(scratch / "metadata.yaml", config.data.ros_distro)
    elif bag.files:
        with open_bag(scratch / next(iter(bag.files)), scratch, config.data.ros_distro) as known:
            yield known
    else:
        yield None


def forecast(source: Source, config: Config) -> BagEstimate:
    """Read a bag's stamps and numbers, and a few of its images."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            plan = plan_bag(source, config, Path(scratch))
        with tempfile.TemporaryDirectory() as scratch:
            image_bytes = _image_bytes(source, plan, config, Path(scratch))
    except UserError as error:
        return BagEstimate(source.name, one_line(error), [], [], 0, 0, [])
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


def _describe(one: BagEstimate | Outlook, fps: int) -> list[str]:
    if one.refused is not None:
        return [f"bag {one.bag}: refused: {one.refused}"]
    if isinstance(one, Outlook):
        size = f"bag {one.bag}: not here, {one.download_bytes / 1e6:.1f} MB"
        if not one.messages:
            return [f"{size}; what is in it shows only when it is here"]
        counts = ", ".join(f"{name} {count:,}" for name, count in one.messages.items())
        return [f"{size}, {one.seconds:.1f} s, at most {round(one.seconds * fps):,} frames; messages: {counts}"]
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
