"""The first reading of a bag: all but its images, which decides what each frame shows."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.report.formatting import counted
from stage1_convert.align import state_action
from stage1_convert.align.episodes import EpisodePlan, choose, make_plan
from stage1_convert.align.streams import BagStreams, Stream, read_streams, subject
from stage1_convert.bags.bag import Bag, open_bag
from stage1_convert.config import JOINTS, Config
from stage1_convert.dataset.record import BadMessageCount, BagEntry, ClockEntry, Gap, LeftOut, MessageCount
from stage1_convert.images.video_topic import starts_video
from stage1_convert.sources.source import BagPath


class BagPlan(NamedTuple):
    """What a conversion would make of a bag: its entry, its streams, and its frames."""

    entry: BagEntry
    bag_streams: BagStreams
    plan: EpisodePlan


def plan_bag(source: BagPath, config: Config, scratch: Path) -> BagPlan:
    """Return what a conversion would make of a bag, from one reading that skips the images.

    Raises UserError as the conversion would, but for damaged images; `scratch` is an existing folder.
    """
    entry = BagEntry(bag=source.name, status="converted", reason=None, warnings=[])
    with open_bag(source.path, scratch, config.data.ros_distro) as bag:
        bag_streams, plan = read_and_plan(bag, config, entry)
        entry.warnings += bag.warnings
    describe_bad_messages(bag_streams, {}, config, entry)
    return BagPlan(entry, bag_streams, plan)


def read_and_plan(bag: Bag, config: Config, entry: BagEntry) -> tuple[BagStreams, EpisodePlan]:
    """Read the streams, plan the episodes, and fill in what the entry says of them."""
    entry.custom_data, entry.messages = bag.custom, {}
    bag_streams = read_streams(bag, config, starts_video)
    for stream in bag_streams.streams.values():
        declared = bag.topics[stream.topic].declared
        if stream.read != declared:
            entry.warnings.append(f"topic {stream.topic}: {declared} messages declared, {stream.read} read")
        entry.messages[stream.topic] = MessageCount(declared=declared, read=stream.read, used=0)
    return bag_streams, plan_streams(bag_streams, config, entry)


def plan_streams(bag_streams: BagStreams, config: Config, entry: BagEntry) -> EpisodePlan:
    """Plan the episodes of a bag's usable messages, and fill in what the entry says of them."""
    streams, clocks = bag_streams.streams, bag_streams.clocks
    _describe_clocks(streams, entry)
    angles = streams[JOINTS].values[:, : len(config.conventions.joint_order)]
    plan = make_plan(clocks, angles, bag_streams.markers_ns, config)
    if entry.bag in config.data.episodes:
        plan = choose(plan, config.data.episodes[entry.bag])
    _describe_plan(plan, streams, entry)
    state_action.check_numbers(bag_streams, plan, config)
    return plan


def describe_bad_messages(
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
    entry.gaps = [Gap.model_validate(gap) for gap in plan.gaps]
    entry.left_out = [
        LeftOut(start_ns=int(plan.ticks_ns[span.start]), frames=span.frames, reason=span.reason)
        for span in plan.left_out
    ]
    for count in entry.messages.values():
        count.used = 0
    for name, stream in streams.items():
        count = entry.messages[stream.topic]
        count.used = max(count.used, len(np.unique(plan.shown(name))))
