"""An open bag in; all it says apart from its pictures, the stamps of every stream and the joint angles, out."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from common.command import UserError
from stage1_convert import conventions, sync
from stage1_convert.bag import Bag
from stage1_convert.config import JOINTS, Config

JOINT_TYPE = "sensor_msgs/msg/JointState"
PICTURE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class Stream(NamedTuple):
    """One stream of a bag: `read` messages on its topic, of which `numbers` (samples,) are its own.

    `values` (samples, numbers) are as recorded, NaN where `faults` says why; a camera has none of them.
    """

    topic: str
    read: int
    clock: sync.Clock
    numbers: sync.Int64
    values: sync.Float64
    faults: dict[int, str]


class Tape(NamedTuple):
    """The streams of a bag by name, and the times at which data.split_topic asks for a new episode."""

    streams: dict[str, Stream]
    markers_ns: sync.Int64

    @property
    def clocks(self) -> dict[str, sync.Clock]:
        """Return the clock of each stream."""
        return {name: stream.clock for name, stream in self.streams.items()}


def read_tape(bag: Bag, config: Config) -> Tape:
    """Read every message of the wanted topics once; raises UserError when a topic is missing, empty or has no clock."""
    joints = tuple(config.conventions.joint_order)
    topics = {JOINTS: _find_topic(bag, [config.data.joint_topic], (JOINT_TYPE,))}
    for camera, topic in config.data.cameras.items():
        compressed = [] if topic.endswith("/compressed") else [f"{topic}/compressed"]
        topics[camera] = _find_topic(bag, [*compressed, topic], PICTURE_TYPES)
    stream_of = {topic: stream for stream, topic in topics.items()}
    stamps: dict[str, list[tuple[int, int]]] = {stream: [] for stream in topics}
    read = dict.fromkeys(topics, 0)
    numbers: list[int] = []
    angles: list[sync.Float64] = []
    faults: dict[int, str] = {}
    for message in bag.messages(stream_of):
        stream = stream_of[message.topic]
        number, read[stream] = read[stream], read[stream] + 1
        if stream == JOINTS:
            try:
                row = _angles(message.content, joints)
            except UserError as error:
                row, faults[len(angles)] = np.full(len(joints), np.nan), str(error)
            if row is None:
                continue
            numbers.append(number)
            angles.append(row)
        stamps[stream].append((message.header_ns, message.receive_ns))
    for stream, topic in topics.items():
        if not stamps[stream]:
            ours = f" that names any of {', '.join(joints)}" if read[stream] else ""
            raise UserError(f"topic {topic} holds no message{ours}; {bag.topics[topic].declared} are declared")
    clocks = {stream: _clock(topics[stream], both, config.data.time_source) for stream, both in stamps.items()}
    every = {name: (np.arange(read[name]), np.zeros((read[name], 0)), dict[int, str]()) for name in topics}
    every[JOINTS] = (np.array(numbers, np.int64), np.array(angles, np.float64), faults)
    streams = {name: Stream(topics[name], read[name], clocks[name], *every[name]) for name in topics}
    return Tape(streams, np.zeros(0, np.int64))


def _find_topic(bag: Bag, candidates: Sequence[str], types: Sequence[str]) -> str:
    present = [topic for topic in candidates if topic in bag.topics]
    if not present:
        held = ", ".join(f"{name} ({topic.type})" for name, topic in sorted(bag.topics.items())) or "none"
        raise UserError(f"has no topic {' or '.join(candidates)}; its topics: {held}")
    topic = next((topic for topic in present if bag.topics[topic].declared), present[0])
    if bag.topics[topic].type not in types:
        raise UserError(f"topic {topic} holds {bag.topics[topic].type}, expected {' or '.join(types)}")
    return topic


def _angles(message: Any, joints: tuple[str, ...]) -> sync.Float64 | None:
    columns = conventions.columns(tuple(message.name), joints)
    if columns is None:
        return None
    if len(message.position) != len(message.name):
        raise UserError(f"{len(message.name)} joints are named and {len(message.position)} positions given")
    angles: sync.Float64 = message.position[columns]
    return angles


def _clock(topic: str, stamps: list[tuple[int, int]], wanted: str) -> sync.Clock:
    header_ns, receive_ns = np.array(stamps, np.int64).T
    try:
        return sync.choose_clock(header_ns, receive_ns, wanted)
    except UserError as error:
        raise UserError(f"topic {topic}: {error}") from error
