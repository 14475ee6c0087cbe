"""The first reading of a bag: all but its images, which decides what each frame shows."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from common.report.formatting import counted
from stage1_convert.align import state_action
from stage1_convert.align.camera_rate import ImageCounts, describe_counts, rate_of
from stage1_convert.align.ends import describe_cuts
from stage1_convert.align.episodes import EpisodePlan, choose, make_plan
from stage1_convert.bags.bag import Bag, open_bag
from stage1_convert.bags.message_files import read_message_files
from stage1_convert.config import Config, DataConfig
from stage1_convert.dataset.record import BadMessageCount, BagEntry, ClockEntry, Gap, LeftOut, MessageCount
from stage1_convert.images.video_topic import starts_video
from stage1_convert.sources.source import BagPath
from stage1_convert.streams.arrays import Int64
from stage1_convert.streams.clock import Clock
from stage1_convert.streams.reader import read_streams
from stage1_convert.streams.stream import BagStreams, Stream, subject, with_initial_values

# Of an episode's frames, and of the images of each episode: more repeated or passed over than that is worth a warning.
EXCESS_SHARE, EXCESS_IMAGES = 0.02, 2


def open_by_settings(source: BagPath, scratch: Path, data: DataConfig) -> AbstractContextManager[Bag]:
    """Open a bag with the message types of data.ros_distro and data.msg_paths; raises UserError as open_bag does."""
    return open_bag(source.path, scratch, data.ros_distro, read_message_files(tuple(data.msg_paths)))


def read_and_plan(bag: Bag, config: Config, entry: BagEntry) -> tuple[BagStreams, EpisodePlan]:
    """Read the streams, plan the episodes, and fill in what the entry says of them."""
    entry.custom_data, entry.messages = bag.custom, {}
    bag_streams = with_initial_values(read_streams(bag, config, starts_video), config.data)
    for stream in bag_streams.streams.values():
        declared = bag.topics[stream.topic].declared
        if stream.read != declared and stream.topic not in entry.messages:
            entry.warnings.append(f"topic {stream.topic}: {declared} messages declared, {stream.read} read")
        entry.messages[stream.topic] = MessageCount(declared=declared, read=stream.read, used=0)
    return bag_streams, plan_streams(bag_streams, config, entry)


def plan_streams(bag_streams: BagStreams, config: Config, entry: BagEntry) -> EpisodePlan:
    """Plan the episodes of a bag's usable messages, and fill in what the entry says of them."""
    streams, clocks = bag_streams.streams, bag_streams.clocks
    _describe_clocks(streams, entry)
    angles = state_action.joint_angles(bag_streams, config)
    others = state_action.other_numbers(bag_streams, config)
    plan = make_plan(clocks, angles, others, bag_streams.markers_ns, config)
    if entry.bag in config.data.episodes:
        plan = choose(plan, config.data.episodes[entry.bag])
    _describe_plan(plan, streams, entry)
    entry.rate_hz = {camera: round(rate_of(clocks[camera].stamps_ns), 3) for camera in config.data.cameras}
    state_action.check_numbers(bag_streams, plan, config)
    return plan


def describe_final(
    bag_streams: BagStreams,
    plan: EpisodePlan,
    images: Sequence[Mapping[str, ImageCounts]],
    looked_at: Mapping[str, Collection[int]],
    config: Config,
    entry: BagEntry,
) -> None:
    """Add to the entry the messages that a final plan leaves out, and warnings about them and about its episodes' images."""
    entry.warnings += _warn_of_cuts(bag_streams.clocks, plan, config.data)
    entry.warnings += _warn_of_images(images, entry, config.data)
    _describe_bad_messages(bag_streams, looked_at, config, entry)


def _describe_bad_messages(
    bag_streams: BagStreams, looked_at: Mapping[str, Collection[int]], config: Config, entry: BagEntry
) -> None:
    """Count the messages that were left out, in the entry and in a warning for each stream.

    `looked_at` holds the images that were looked at, by camera and message; of the other streams all messages were.
    """
    entry.bad_messages = {}
    for name, stream in bag_streams.streams.items():
        if not stream.bad:
            continue
        first, count = stream.bad[0], len(stream.bad)
        numbers = looked_at.get(name, stream.numbers)
        of = len({*map(int, numbers), *(message.number for message in stream.bad)})
        entry.bad_messages[name] = BadMessageCount(
            count=count,
            looked_at=of,
            first_message=first.number,
            first_stamp_ns=first.stamp_ns,
            reason=first.reason,
        )
        entry.warnings.append(
            f"{subject(name, stream, config)}: {counted(count, 'bad message')} of {of} left out, the first one message "
            f"{first.number} stamped {first.stamp_ns} ns: {first.reason}"
        )


def _describe_clocks(streams: Mapping[str, Stream], entry: BagEntry) -> None:
    entry.clock = {}
    for name, stream in streams.items():
        clock = stream.clock
        entry.clock[name] = ClockEntry(
            source=clock.source,
            reason=clock.reason,
            latency_ms=clock.latency_ms,
            first_ns=int(clock.stamps_ns[0]),
            last_ns=int(clock.stamps_ns[-1]),
        )


def _describe_plan(plan: EpisodePlan, streams: Mapping[str, Stream], entry: BagEntry) -> None:
    first_ns = min(clock.first_ns for clock in entry.clock.values())
    last_ns = max(clock.last_ns for clock in entry.clock.values())
    entry.warm_up_s = round((int(plan.ticks_ns[0]) - first_ns) / 1e9, 6)
    entry.tail_s = round((last_ns - int(plan.ticks_ns[-1])) / 1e9, 6)
    entry.resample, entry.grid_delay_ms = plan.rules, plan.delay_ns / 1e6
    entry.gaps = [Gap.model_validate(gap) for gap in plan.gaps]
    entry.left_out = [
        LeftOut(start_ns=int(plan.ticks_ns[span.start]), frames=span.frames, reason=span.reason)
        for span in plan.left_out
    ]
    used: dict[str, list[Int64]] = {}
    for name, stream in streams.items():
        used.setdefault(stream.topic, []).append(stream.numbers[plan.shown(name)])
    for topic, numbers in used.items():
        entry.messages[topic].used = int(np.count_nonzero(np.unique(np.concatenate(numbers)) >= 0))


def _warn_of_cuts(clocks: Mapping[str, Clock], plan: EpisodePlan, data: DataConfig) -> list[str]:
    """Return warnings about what the ends of the grid, or gaps at its ends, leave out."""
    ticks_ns, gaps = plan.ticks_ns, plan.gaps
    first, last, silent_first, silent_last = 0, len(ticks_ns) - 1, list[str](), list[str]()
    if gaps and gaps[0].start_ns == ticks_ns[0]:
        first, silent_first = gaps[0].frames, gaps[0].streams
    if gaps and int(np.searchsorted(ticks_ns, gaps[-1].start_ns)) + gaps[-1].frames == len(ticks_ns):
        last, silent_last = len(ticks_ns) - gaps[-1].frames - 1, gaps[-1].streams
    return describe_cuts(clocks, (int(ticks_ns[first]), int(ticks_ns[last])), (silent_first, silent_last), data)


def _warn_of_images(episodes: Sequence[Mapping[str, ImageCounts]], entry: BagEntry, data: DataConfig) -> Iterator[str]:
    """Yield a warning for each camera of which the frames repeat or pass over more images than they must."""
    for camera in data.cameras:
        counts = [episode[camera] for episode in episodes]
        frames, excess = sum(count.frames for count in counts), sum(count.excess for count in counts)
        if excess > max(EXCESS_SHARE * frames, EXCESS_IMAGES * len(counts)):
            found = describe_counts(counts, entry.rate_hz[camera], data.fps)
            yield f"camera {camera}: {found}: {_way_out(camera, entry, data)}"


def _way_out(camera: str, entry: BagEntry, data: DataConfig) -> str:
    if data.grid_delay_ms is not None or entry.resample[camera] != "in_order":
        return (
            "data.resample=auto and data.grid_delay_ms=null show each image once where the rate is that of the frames"
        )
    other = "receive" if entry.clock[camera].source == "header" else "header"
    return f"its {entry.clock[camera].source} stamps jitter: try data.time_source_by_stream={{{camera}: {other}}}"
