"""Reads the stamps and the numbers of every stream of a bag: everything but the images.

A stream is `joints`, a camera, a state field or `command`, by the names of the config. Its samples are the usable messages
of its topic: another publisher may share the topic of the joints, and a video stream may begin with packets that carry no
image. `numbers` gives the place of each sample among all messages of the topic, for whoever reads the topic again; it is -1
for a sample of data.initial_values.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from common.cli.command import UserError
from stage1_convert.align.clock import SECOND_NS, Clock, Int64, choose_clock
from stage1_convert.align.joint_fields import COMMANDS, JOINT_STATE, TRAJECTORY, command_reader, joint_state_reader
from stage1_convert.align.resample import Bool, Float64
from stage1_convert.bags.bag import Bag
from stage1_convert.bags.cdr import FieldBatch, FieldReader, empty_batch, number_reader, stamp_reader
from stage1_convert.bags.message_types import IMAGE_TYPES, VIDEO_TYPES
from stage1_convert.bags.storage import Bytes
from stage1_convert.config import COMMAND, FIELD_PATH, JOINTS, Config, DataConfig

IMAGE_TRANSPORTS = ("compressed", "compressedDepth", "ffmpeg")  # image_transport publishes them beside a raw topic

SPARSE_PERIODS = 10  # of the grid: trajectories that are further apart on average are no commands

StartsVideo = Callable[[Any], bool]  # tells whether the decoding of a video can begin with this packet


class Stream(NamedTuple):
    """One stream of a bag: `read` messages on its topic, of which `numbers` (samples,) are its samples.

    `values` (samples, dimensions) are as recorded (joint angles in radians, each of data.joint_fields for all joints).
    They are NaN where `faults`, by message number, says why; those of a camera have no dimension.
    """

    topic: str
    read: int
    clock: Clock
    numbers: Int64
    values: Float64
    faults: dict[int, str]


class BagStreams(NamedTuple):
    """The streams of a bag by name, and the times at which data.split_topic asks for a new episode."""

    streams: dict[str, Stream]
    markers_ns: Int64

    @property
    def clocks(self) -> dict[str, Clock]:
        """Return the clock of each stream."""
        return {name: stream.clock for name, stream in self.streams.items()}


def read_streams(bag: Bag, config: Config, starts_video: StartsVideo) -> BagStreams:
    """Read every message of the wanted topics once; raises UserError when a topic is missing, empty or has no clock."""
    readers = {
        name: StreamReader(bag, topic, _fields(name, bag, topic, config), starts_video)
        for name, topic in find_topics(bag, config).items()
    }
    markers = _marker_reader(bag, config.data.split_topic, starts_video)
    _read_messages(bag, [*readers.values(), *([markers] if markers else [])])
    streams = _with_initial_values({name: reader.finish(name, config) for name, reader in readers.items()}, config.data)
    markers_ns = markers.finish("", config).clock.stamps_ns if markers and markers.read else np.zeros(0, np.int64)
    return BagStreams(streams, markers_ns)


def find_topics(bag: Bag, config: Config) -> dict[str, str]:
    """Return the topic of each stream; raises UserError when the bag has none that fits, or no message at all."""
    if not any(topic.declared for topic in bag.topics.values()):
        raise UserError("is empty: it holds no message")
    data = config.data
    topics = {JOINTS: _find_topic(bag, [data.joint_topic], (JOINT_STATE,))}
    for camera, topic in data.cameras.items():
        siblings = [] if topic.endswith(IMAGE_TRANSPORTS) else [f"{topic}/{kind}" for kind in IMAGE_TRANSPORTS]
        topics[camera] = _find_topic(bag, [*siblings[:1], topic, *siblings[1:]], IMAGE_TYPES)
    for name, path in data.state_fields.items():
        topics[name] = _find_topic(bag, [_split_path(path)[0]], ())
    if COMMAND in config.streams:
        topics[COMMAND] = _find_topic(bag, [data.command_topic or ""], COMMANDS)
    return topics


def _with_initial_values(streams: dict[str, Stream], data: DataConfig) -> dict[str, Stream]:
    """Put a sample at the start of the bag before those of the streams in data.initial_values; its number is -1."""
    firsts_ns = [stream.clock.stamps_ns[:1] for stream in streams.values()]
    start_ns = np.concatenate(firsts_ns).min(keepdims=True)
    changed = {}
    for name, value in data.initial_values.items():
        stream = streams[name]
        clock = stream.clock._replace(stamps_ns=np.concatenate([start_ns, stream.clock.stamps_ns]))
        numbers = np.concatenate([[-1], stream.numbers])
        changed[name] = stream._replace(clock=clock, numbers=numbers, values=np.concatenate([[[value]], stream.values]))
    return streams | changed


class StreamReader:
    """Collects the samples of one stream, a few messages at a time; `read` counts the messages of its topic."""

    def __init__(self, bag: Bag, topic: str, fields: FieldReader | None, starts_video: StartsVideo) -> None:
        self.topic, self.read = topic, 0
        self._bag, self._type, self._fields = bag, bag.topics[topic].type, fields
        self._starts_video = starts_video
        self._awaits_key_frame = self._type in VIDEO_TYPES
        self._leading = 0  # packets before the first key frame
        self._parts: list[tuple[Int64, Int64, Int64, Float64]] = []
        self._faults: dict[int, str] = {}

    def add(self, messages: Sequence[tuple[int, Bytes]]) -> None:
        """Take the next messages of the topic, pairs of receive time and CDR."""
        found = self._fields.read([data for _, data in messages]) if self._fields else empty_batch(len(messages))
        rows = np.flatnonzero(self._usable(found, messages))
        receive_ns = np.array([receive_ns for receive_ns, _ in messages], np.int64)
        self._parts.append((self.read + rows, found.header_ns[rows], receive_ns[rows], found.values[rows]))
        self._faults |= {self.read + row: fault for row, fault in found.faults.items()}
        self.read += len(messages)

    def finish(self, name: str, config: Config) -> Stream:
        """Return the whole stream; raises UserError when it has no sample or no clock."""
        if not self.read and name in config.data.initial_values:
            silent = Clock(np.zeros(0, np.int64), "receive", "no message: data.initial_values alone", None)
            return Stream(self.topic, 0, silent, np.zeros(0, np.int64), np.zeros((0, 1)), {})
        if not any(len(part[0]) for part in self._parts):
            about = f" that names any of {', '.join(config.conventions.joint_order)}"
            about = about if self.read and name in (JOINTS, COMMAND) else ""
            declared = self._bag.topics[self.topic].declared
            raise UserError(f"topic {self.topic} holds no message{about}; {declared} are declared")
        if self._leading:
            self._bag.warnings.append(
                f"topic {self.topic}: {self._leading} packets before the first key frame carry no image"
            )
        numbers, header_ns, receive_ns, values = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        self._parts = []
        clock = self._clock(name, header_ns, receive_ns, config.data)
        if name == COMMAND and self._type == TRAJECTORY:
            _require_commands_at_a_rate(self.topic, clock.stamps_ns, config.data.fps)
        return Stream(self.topic, self.read, clock, numbers, values, self._faults)

    def _usable(self, found: FieldBatch, messages: Sequence[tuple[int, Bytes]]) -> Bool:
        """Return (messages,), which of the messages are samples of the stream."""
        leading = 0
        while self._awaits_key_frame and leading < len(messages):
            content = self._bag.deserialize(self.topic, messages[leading][1])
            self._awaits_key_frame = not self._starts_video(content)
            leading += self._awaits_key_frame
        self._leading += leading
        return found.relevant & (np.arange(len(messages)) >= leading)

    def _clock(self, name: str, header_ns: Int64, receive_ns: Int64, data: DataConfig) -> Clock:
        wanted = data.time_source_by_stream.get(name, data.time_source)
        if not (self._fields and self._fields.has_stamp):
            if wanted == "header":
                raise UserError(f"topic {self.topic}: {self._type} has no stamp; set data.time_source_by_stream.{name}")
            return Clock(receive_ns, "receive", f"{self._type} has no stamp", None)
        try:
            return choose_clock(header_ns, receive_ns, wanted)
        except UserError as error:
            raise UserError(f"topic {self.topic}: {error}") from error


def _require_commands_at_a_rate(topic: str, stamps_ns: Int64, fps: int) -> None:
    """Raise UserError for trajectories that are sent once for each goal: the first point of such a one is no action."""
    if len(stamps_ns) < 2 or np.median(np.diff(stamps_ns)) > SPARSE_PERIODS * SECOND_NS / fps:
        raise UserError(
            f"topic {topic}: {len(stamps_ns)} trajectories, one for each goal: their first points are no commands at "
            f"{fps} fps; conventions.action=next_position or delta takes the actions from the joints"
        )


def _read_messages(bag: Bag, readers: Sequence[StreamReader]) -> None:
    """Hand every message to the readers of its topic: several streams may share one."""
    for batch in bag.batches(dict.fromkeys(reader.topic for reader in readers)):
        by_topic: dict[str, list[tuple[int, Bytes]]] = {}
        for topic, receive_ns, data in batch:
            by_topic.setdefault(topic, []).append((receive_ns, data))
        for reader in readers:
            if reader.topic in by_topic:
                reader.add(by_topic[reader.topic])


def _fields(name: str, bag: Bag, topic: str, config: Config) -> FieldReader:
    """Return the reader of the fields that a stream is made of."""
    types, msgtype, joints = bag.types(topic), bag.topics[topic].type, tuple(config.conventions.joint_order)
    if name == JOINTS:
        return joint_state_reader(types, joints, config.data.joint_fields)
    if name == COMMAND:
        return command_reader(types, msgtype, joints)
    if name in config.data.cameras:
        return stamp_reader(types, msgtype)
    try:
        return number_reader(types, msgtype, _split_path(config.data.state_fields[name])[1])
    except UserError as error:
        raise UserError(f"topic {topic}: {error}") from error


def _split_path(path: str) -> tuple[str, str]:
    """Return the topic and the field of TOPIC:path."""
    match = FIELD_PATH.fullmatch(path)
    assert match  # the config checks it
    return match["topic"], match["path"]


def _marker_reader(bag: Bag, topic: str | None, starts_video: StartsVideo) -> StreamReader | None:
    if topic is None:
        return None
    if topic not in bag.topics:
        bag.warnings.append(f"has no topic {topic} (data.split_topic): it is not split by it")
        return None
    fields = None
    with contextlib.suppress(UserError):  # markers may be of a type that nobody defines: their receive times count
        fields = stamp_reader(bag.types(topic), bag.topics[topic].type)
    return StreamReader(bag, topic, fields, starts_video)


def _find_topic(bag: Bag, candidates: Sequence[str], types: Sequence[str]) -> str:
    present = [topic for topic in candidates if topic in bag.topics]
    if not present:
        held = ", ".join(f"{name} ({topic.type})" for name, topic in sorted(bag.topics.items())) or "none"
        raise UserError(f"has no topic {' or '.join(candidates[:2])}; its topics: {held}")
    topic = next((topic for topic in present if bag.topics[topic].declared), present[0])
    if types and bag.topics[topic].type not in types:
        raise UserError(f"topic {topic} holds {bag.topics[topic].type}, expected {' or '.join(types)}")
    return topic
