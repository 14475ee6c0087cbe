"""Estimate what a conversion would make of each bag, and how large the dataset would get, without writing it."""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from common.cli.command import UserError, one_line, progress
from common.report.formatting import counted
from common.storage.disk import free_bytes
from common.storage.worker import Limits, map_isolated
from stage1_convert.align.camera_rate import describe_counts
from stage1_convert.align.episodes import EpisodePlan
from stage1_convert.align.state_action import describe_images
from stage1_convert.bags.bag import Bag
from stage1_convert.bags.storage import limits_for
from stage1_convert.config import Config
from stage1_convert.dataset.record import BagEntry
from stage1_convert.images.encode import encode
from stage1_convert.images.range_use import range_warnings
from stage1_convert.pipeline.frames import BadImagesError, FrameReader
from stage1_convert.pipeline.plan_bag import describe_final, open_by_settings, read_and_plan
from stage1_convert.sources.folder import size_bytes
from stage1_convert.sources.source import BagInfo, BagPath, BagSource, FetchedBag
from stage1_convert.streams.stream import BagStreams

SHOWN_GAPS = 5
TRIED_FRAMES = 30  # until one shows no damaged image


class BagEstimate(NamedTuple):
    """What a conversion would make of one bag; `refused` is the reason why it would make nothing."""

    bag: str
    refused: str | None = None
    frames: Sequence[int] = ()  # of each episode
    gaps: Sequence[str] = ()
    left_out: int = 0  # frames that are in no episode
    size_bytes: float = 0.0
    warnings: Sequence[str] = ()
    images: Sequence[str] = ()  # what the frames make of each camera's images


def dry_run(source: BagSource, bags: Sequence[BagInfo], config: Config, out: Path | None) -> int:
    """Print what would be converted; returns the exit code, 2 when nothing would be.

    Bags that are not on this disk are downloaded, because only a whole bag shows what would become of it. Free space is that
    of the disk that would hold `out`, or the current folder.
    """
    missing_bytes = source.missing_bytes(bags)
    if missing_bytes:
        print(f"download  {missing_bytes / 1e6:,.1f} MB to {source.root}: a dry run reads whole bags", flush=True)
    estimates = list(_estimate_all(source, bags, config))
    size = "less than" if config.data.storage == "video" else "about"
    for estimate in estimates:
        print("\n".join(_describe(estimate, config.data.fps, size)))
    episodes = [frames for estimate in estimates for frames in estimate.frames]
    refused = [estimate.bag for estimate in estimates if estimate.refused is not None]
    total_bytes = sum(estimate.size_bytes for estimate in estimates)
    folder = (out or Path()).resolve()
    print()
    print(f"bags      {len(estimates) - len(refused)} would be converted, {len(refused)} refused")
    print(f"episodes  {len(episodes)}")
    print(f"frames    {sum(episodes)}, {sum(episodes) / config.data.fps:.1f} s at {config.data.fps} fps")
    print(f"dataset   {size} {total_bytes / 1e6:,.1f} MB; {free_bytes(folder) / 1e6:,.1f} MB are free at {folder}")
    hint = source.hint(refused)
    if hint:
        print(f"hint      {hint}")
    return 0 if episodes else 2


def _estimate_all(source: BagSource, bags: Sequence[BagInfo], config: Config) -> Iterator[BagEstimate]:
    """Yield the estimate of each bag, and release the bag."""
    with contextlib.closing(source.fetch(bags, lambda _name, _sums: False)) as fetched:
        tasks, pending = itertools.tee((bag, config) for bag in progress(fetched, len(bags), "plan", "bag"))
        with contextlib.closing(map_isolated(_estimate, tasks, 1, _limits)) as results:
            for result, (bag, _) in zip(results, pending, strict=True):
                source.release(bag.source, None)
                yield _refused(bag, result) if isinstance(result, UserError) else result


def _estimate(task: tuple[FetchedBag, Config]) -> BagEstimate:
    bag, config = task
    return _refused(bag, UserError(bag.fault)) if bag.fault else estimate_bag(bag.source, config)


def _limits(task: tuple[FetchedBag, Config]) -> Limits:
    return limits_for(size_bytes(task[0].source.path))


def _refused(bag: FetchedBag, reason: UserError) -> BagEstimate:
    return BagEstimate(bag.source.name, refused=one_line(reason))


def estimate_bag(source: BagPath, config: Config) -> BagEstimate:
    """Read the stamps and numbers of a bag, and the images of its first frame."""
    entry = BagEntry(bag=source.name, status="converted", reason=None, warnings=[])
    try:
        with tempfile.TemporaryDirectory() as scratch, open_by_settings(source, Path(scratch), config.data) as bag:
            bag_streams, plan = read_and_plan(bag, config, entry)
            entry.warnings += bag.warnings
            episodes = describe_images(bag_streams.clocks, plan, config.data)
            describe_final(bag_streams, plan, episodes, {}, config, entry)
            image_bytes, warnings = _first_images(bag, bag_streams, plan, config)
    except UserError as error:
        return BagEstimate(source.name, refused=one_line(error))
    frames = [span.frames for span in plan.episodes]
    n_values = len(config.state_names) + len(config.action_names)
    row_bytes = 4 * n_values + 36 + 16 * (1 + len(config.streams))  # with the file in meta/sync
    gaps = [
        f"a gap of {gap.frames} frames after {(gap.start_ns - int(plan.ticks_ns[0])) / 1e9:.2f} s: nothing "
        f"from {', '.join(gap.streams)}"
        for gap in plan.gaps
    ]
    left_out = sum(span.frames for span in plan.left_out)
    images = [
        f"{camera}: {describe_counts([counts[camera] for counts in episodes], rate_hz, config.data.fps)}"
        for camera, rate_hz in entry.rate_hz.items()
    ]
    size_bytes, warnings = sum(frames) * (row_bytes + image_bytes), [*entry.warnings, *warnings]
    return BagEstimate(source.name, None, frames, gaps, left_out, size_bytes, warnings, images)


def _first_images(bag: Bag, bag_streams: BagStreams, plan: EpisodePlan, config: Config) -> tuple[int, list[str]]:
    """Return the bytes of the images of the first frame, of all cameras, and warnings about the ranges that they are in.

    For a video the bytes are those of a JPEG, which takes more. Where the frame shows a damaged image, it is the next one.
    """
    first, quality = plan.episodes[0], config.conventions.jpeg_quality
    looked_at: dict[str, set[int]] = {camera: set() for camera in config.data.cameras}
    for start in range(first.start, min(first.stop, first.start + TRIED_FRAMES)):
        frame = plan._replace(episodes=[first._replace(start=start, stop=start + 1)])
        reader = FrameReader(bag, bag_streams, frame, config, False, looked_at)
        with contextlib.suppress(BadImagesError):
            shown = next(reader.frames()).values()
            files = (image.data if image.image is None else encode(image.image, "jpeg", quality) for image in shown)
            return sum(map(len, files)), list(range_warnings(reader.ranges, config.data))
    camera, (message, *_) = next(iter(reader.bad.items()))
    raise UserError(
        f"camera {camera}: the images of the first {TRIED_FRAMES} frames are damaged, such as message {message.number} "
        f"stamped {message.stamp_ns} ns: {message.reason}; data.exclude leaves the bag out"
    )


def _describe(estimate: BagEstimate, fps: int, size: str) -> list[str]:
    if estimate.refused is not None:
        return [f"bag {estimate.bag}: refused: {estimate.refused}"]
    lengths = ", ".join(f"{frames / fps:.1f}" for frames in estimate.frames)
    left_out = f", {estimate.left_out} frames left out" if estimate.left_out else ""
    lines = [
        f"bag {estimate.bag}: {counted(len(estimate.frames), 'episode')} of {lengths} s, {sum(estimate.frames)} frames"
        f"{left_out}, {size} {estimate.size_bytes / 1e6:.1f} MB"
    ]
    lines += [f"  {gap}" for gap in estimate.gaps[:SHOWN_GAPS]]
    if len(estimate.gaps) > SHOWN_GAPS:
        lines.append(f"  and {len(estimate.gaps) - SHOWN_GAPS} more gaps")
    return lines + [f"  warning: {warning}" for warning in estimate.warnings]
