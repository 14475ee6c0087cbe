"""The streams of a bag: the stamps and the numbers of each, everything but the images.

A stream is `joints`, a camera, a field or `command`, by the names of the config. Its samples are the usable messages of its
topic: another publisher may share the topic of the joints, a video stream may begin with packets that carry no image, and
data.bad_messages=skip leaves out those with something wrong in them.
`numbers` gives the place of each sample among all messages of the topic, for whoever reads the topic again; it is -1 for
a sample of data.initial_values. Joints that come in messages of their own, such as a gripper's, are a stream of their own:
`joints.NAME`, named after the first of them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.cli.command import UserError
from stage1_convert.config import Config, DataConfig, time_source_of
from stage1_convert.streams.arrays import Bool, Float64, Int64
from stage1_convert.streams.bad_messages import BadMessage
from stage1_convert.streams.clock import Clock, choose_clock


class Stream(NamedTuple):
    """One stream of a bag: `read` messages on its topic, of which `numbers` (samples,) are its samples.

    `values` (samples, dimensions) are as recorded (joint angles in radians, each of data.joint_fields for all joints).
    They are NaN where `faults`, by message number, says why; those of a camera have no dimension. `names` are those of the
    dimensions, as in Config.state_names and Config.action_names. `header_ns` and `receive_ns` (samples,) are what the clock
    was chosen from; `bad` are the messages that were left out.
    """

    topic: str
    names: tuple[str, ...]
    read: int
    clock: Clock
    numbers: Int64
    values: Float64
    faults: dict[int, str]
    header_ns: Int64
    receive_ns: Int64
    bad: tuple[BadMessage, ...] = ()


class BagStreams(NamedTuple):
    """The streams of a bag by name, and the times at which data.split_topic asks for a new episode."""

    streams: dict[str, Stream]
    markers_ns: Int64

    @property
    def clocks(self) -> dict[str, Clock]:
        """Return the clock of each stream."""
        return {name: stream.clock for name, stream in self.streams.items()}


def without(bag_streams: BagStreams, bad: Mapping[str, Sequence[BadMessage]], config: Config) -> BagStreams:
    """Return the streams without the bad images of some cameras, whose clocks are chosen again by the images that are left."""
    streams = dict(bag_streams.streams)
    for name, messages in bad.items():
        stream = streams[name]
        usable = ~np.isin(stream.numbers, [message.number for message in messages])
        left = with_clock(name, choose_samples(stream, usable), config.data)
        streams[name] = left._replace(bad=tuple(sorted([*stream.bad, *messages])))
    return bag_streams._replace(streams=streams)


def with_initial_values(bag_streams: BagStreams, data: DataConfig) -> BagStreams:
    """Return the streams with a sample at the start of the bag for each initial value; its message number is -1."""
    streams = dict(bag_streams.streams)
    start_ns = np.concatenate([stream.clock.stamps_ns[:1] for stream in streams.values()]).min(keepdims=True)
    for name, value in data.initial_values.items():
        stream = streams[name]
        streams[name] = stream._replace(
            clock=stream.clock._replace(stamps_ns=np.concatenate([start_ns, stream.clock.stamps_ns])),
            numbers=np.concatenate([[-1], stream.numbers]),
            values=np.concatenate([[[value]], stream.values]),
            header_ns=np.concatenate([start_ns, stream.header_ns]),
            receive_ns=np.concatenate([start_ns, stream.receive_ns]),
        )
    return bag_streams._replace(streams=streams)


def subject(name: str, stream: Stream, config: Config) -> str:
    """Return what a message about one of a stream's messages begins with."""
    return f"camera {name}" if name in config.data.cameras else f"topic {stream.topic}"


def choose_samples(stream: Stream, usable: Bool) -> Stream:
    """Return the stream with those of its samples that are `usable` (samples,), placed by their receive times."""
    if usable.all():
        return stream
    return stream._replace(
        clock=stream.clock._replace(stamps_ns=stream.receive_ns[usable]),
        numbers=stream.numbers[usable],
        values=stream.values[usable],
        header_ns=stream.header_ns[usable],
        receive_ns=stream.receive_ns[usable],
    )


def with_clock(name: str, stream: Stream, data: DataConfig) -> Stream:
    """Return a stream whose messages carry a stamp with the clock that suits its samples."""
    if not len(stream.numbers):
        return stream
    try:
        return stream._replace(clock=choose_clock(stream.header_ns, stream.receive_ns, time_source_of(name, data)))
    except UserError as error:
        raise UserError(f"topic {stream.topic}: {error}") from error
