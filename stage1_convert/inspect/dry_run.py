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
from stage1_convert.bags.storage import limits_for
from stage1_convert.config import Config
from stage1_convert.images.encode import encode
from stage1_convert.pipeline.frames import BadImagesError, FrameReader
from stage1_convert.pipeline.plan_bag import BagPlan, open_by_settings, plan_bag
from stage1_convert.sources.folder import size_bytes
from stage1_convert.sources.source import BagInfo, BagPath, BagSource, FetchedBag

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
    refused = sum(estimate.refused is not None for estimate in estimates)
    total_bytes = sum(estimate.size_bytes for estimate in estimates)
    folder = (out or Path()).resolve()
    print()
    print(f"bags      {len(estimates) - refused} would be converted, {refused} refused")
    print(f"episodes  {len(episodes)}")
    print(f"frames    {sum(episodes)}, {sum(episodes) / config.data.fps:.1f} s at {config.data.fps} fps")
    print(f"dataset   {size} {total_bytes / 1e6:,.1f} MB; {free_bytes(folder) / 1e6:,.1f} MB are free at {folder}")
    _print_hint(source, estimates)
    return 0 if episodes else 2


def _print_hint(source: BagSource, estimates: Sequence[BagEstimate]) -> None:
    hint = source.hint([estimate.bag for estimate in estimates if estimate.refused is not None])
    if hint:
        print(f"hint      {hint}")


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


def _refused(bag: FetchedBag, reason: UserError) -> BagEstimate:
    return BagEstimate(bag.source.name, refused=one_line(reason))


def _limits(task: tuple[FetchedBag, Config]) -> Limits:
    return limits_for(size_bytes(task[0].source.path))


def estimate_bag(source: BagPath, config: Config) -> BagEstimate:
    """Read the stamps and numbers of a bag, and the images of its first frame."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            bag = plan_bag(source, config, Path(scratch))
        with tempfile.TemporaryDirectory() as scratch:
            image_bytes, warnings = _first_images(source, bag, config, Path(scratch))
    except UserError as error:
        return BagEstimate(source.name, refused=one_line(error))
    frames = [span.frames for span in bag.plan.episodes]
    n_values = len(config.state_names) + len(config.action_names)
    row_bytes = 4 * n_values + 36 + 16 * (1 + len(config.streams))  # with the file in meta/sync
    gaps = [
        f"a gap of {gap.frames} frames after {(gap.start_ns - int(bag.plan.ticks_ns[0])) / 1e9:.2f} s: nothing "
        f"from {', '.join(gap.streams)}"
        for gap in bag.plan.gaps
    ]
    left_out = sum(span.frames for span in bag.plan.left_out)
    size_bytes, warnings = sum(frames) * (row_bytes + image_bytes), [*bag.entry.warnings, *warnings]
    return BagEstimate(source.name, None, frames, gaps, left_out, size_bytes, warnings)


def _first_images(source: BagPath, bag: BagPlan, config: Config, scratch: Path) -> tuple[int, list[str]]:
    """Return the bytes of the images of the first frame, of all cameras, and warnings about the ranges that they are in.

    For a video the bytes are those of a JPEG, which takes more. Where the frame shows a damaged image, it is the next one.
    """
    first, quality = bag.plan.episodes[0], config.conventions.jpeg_quality
    looked_at: dict[str, set[int]] = {camera: set() for camera in config.data.cameras}
    with open_by_settings(source, scratch, config.data) as opened:
        for start in range(first.start, min(first.stop, first.start + TRIED_FRAMES)):
            plan = bag.plan._replace(episodes=[first._replace(start=start, stop=start + 1)])
            reader = FrameReader(opened, bag.bag_streams, plan, config, False, looked_at)
            with contextlib.suppress(BadImagesError):
                images = next(reader.frames()).values()
                sizes = [
                    len(shown.data if shown.image is None else encode(shown.image, "jpeg", quality)) for shown in images
                ]
                return sum(sizes), list(reader.range_use.warnings(config.data))
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
