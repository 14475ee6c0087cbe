"""An open bag in; all it says apart from its images, the stamps and the numbers of every stream, out.

A stream is `joints`, a camera, a state field, or `command`, by the names of the config. Its samples are those messages
of its topic that are meant for it: `numbers` gives each sample's place among all messages of the topic, and whoever
reads the topic again must go by it (camera.py does): another publisher may share the topic of the joints, and a video
stream may begin with packets that carry no image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.cli.command import UserError
from stage1_convert.align import resample as sync
from stage1_convert.align.joint_fields import COMMANDS, JOINT_STATE, command_reader, joint_state_reader
from stage1_convert.align.spool import Spool, forget, thin
from stage1_convert.bags.bag import Bag
from stage1_convert.bags.cdr import FieldReader, empty_batch, number_reader, stamp_reader
from stage1_convert.bags.storage import Bytes
from stage1_convert.config import COMMAND, FIELD_PATH, JOINTS, Config, DataConfig
from stage1_convert.images.video_topic import VIDEO_TYPES, starts_video

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", *VIDEO_TYPES)
SIBLINGS = ("compressed", "compressedDepth", "ffmpeg")


class Stream(NamedTuple):
    """One stream of a bag: `read` messages on its topic, of which `numbers` (samples,) are its own.

    `values` (samples, numbers) are as recorded (joint angles in radians, each of data.joint_fields for all joints), NaN
    where `faults` says why; a camera has none of them.
    """

    topic: str
    read: int
    clock: sync.Clock
    numbers: sync.Int64
    values: sync.Float64
    faults: dict[int, str]


class BagStreams(NamedTuple):
    """The streams of a bag by name, and the times at which data.split_topic asks for a new episode."""

    streams: dict[str, Stream]
    markers_ns: sync.Int64

    @property
    def topics(self) -> dict[str, str]:
        """Return the topic of each stream."""
        return {name: stream.topic for name, stream in self.streams.items()}

    @property
    def read(self) -> dict[str, int]:
        """Return how many messages the topic of each stream gave."""
        return {name: stream.read for name, stream in self.streams.items()}

    @property
    def clocks(self) -> dict[str, sync.Clock]:
        """Return the clock of each stream."""
        return {name: stream.clock for name, stream in self.streams.items()}

    def forget(self) -> None:
        """Let go of the memory that long streams take."""
        for stream in self.streams.values():
            forget(stream.clock.stamps_ns, stream.numbers, stream.values)

    @property
    def numbers(self) -> sync.Int64:
        """Return the message numbers of the joints."""
        return self.streams[JOINTS].numbers

    @property
    def angles(self) -> sync.Float64:
        """Return the values (samples, numbers) of the joints."""
        return self.streams[JOINTS].values

    @property
    def faults(self) -> dict[int, str]:
        """Return what is wrong with samples of the joints."""
        return self.streams[JOINTS].faults


def read_streams(bag: Bag, config: Config) -> BagStreams:
    """Read every message of the wanted topics once; raises UserError when a topic is missing, empty or has no clock."""
    topics = find_topics(bag, config)
    tracks = {JOINTS: _joints(bag, topics[JOINTS], config)}
    for camera in config.data.cameras:
        tracks[camera] = _camera(bag, topics[camera])
    for name, path in config.data.state_fields.items():
        tracks[name] = _state_field(bag, topics[name], path)
    if COMMAND in topics:
        tracks[COMMAND] = _command(bag, topics[COMMAND], config)
    marks = _marks(bag, config.data.split_topic) if config.data.split_topic else None
    _play(bag, [*tracks.values(), *([marks] if marks else [])])
    streams = {name: track.finish(name, config) for name, track in tracks.items()}
    markers_ns = marks.finish("", config).clock.stamps_ns if marks and marks.read else np.zeros(0, np.int64)
    return BagStreams(streams, markers_ns)


def find_topics(bag: Bag, config: Config) -> dict[str, str]:
    """Return the topic of each stream; raises UserError when the bag has none that fits, or no message at all."""
    if not any(topic.declared for topic in bag.topics.values()):
        raise UserError("is empty: it holds no message")
    data = config.data
    topics = {JOINTS: _find_topic(bag, [data.joint_topic], (JOINT_STATE,))}
    for camera, topic in data.cameras.items():
        # image_transport publishes siblings beside a raw topic
        siblings = [] if topic.endswith(SIBLINGS) else [f"{topic}/{kind}" for kind in SIBLINGS]
        topics[camera] = _find_topic(bag, [*siblings[:1], topic, *siblings[1:]], IMAGE_TYPES)
    for name, path in data.state_fields.items():
        matched = FIELD_PATH.fullmatch(path)
        assert matched
        topics[name] = _find_topic(bag, [matched["topic"]], ())
    if COMMAND in config.streams:
        topics[COMMAND] = _find_topic(bag, [data.command_topic or ""], COMMANDS)
    return topics


class _StreamReader:
    """A stream while it is read."""

    def __init__(self, bag: Bag, topic: str, reader: FieldReader | None, whose: str = "") -> None:
        self.topic, self.read, self._reader, self._whose = topic, 0, reader, whose
        self._bag, self._type = bag, bag.topics[topic].type
        self._is_video = self._type in VIDEO_TYPES
        self._leading = 0
        self._numbers, self._header_ns, self._receive_ns, self._values = Spool(), Spool(), Spool(), Spool()
        self._order = sync.StampOrder()
        self._samples = 0
        self._faults: dict[int, str] = {}

    def add(self, messages: list[tuple[int, Bytes]]) -> None:
        """Take the next messages of the topic, pairs of receive time and CDR."""
        first, self.read = self.read, self.read + len(messages)
        while self._is_video and messages and self._leading == first and not self._starts(messages[0][1]):
            self._leading, first, messages = self._leading + 1, first + 1, messages[1:]
        if not messages:
            return
        found = self._reader.read([data for _, data in messages]) if self._reader else empty_batch(len(messages))
        ours = np.flatnonzero(found.relevant)
        place = dict(zip(ours.tolist(), range(self._samples, self._samples + len(ours)), strict=True))
        self._faults |= {place[at]: fault for at, fault in found.faults.items()}
        receive_ns = np.array([receive_ns for receive_ns, _ in messages], np.int64)
        self._numbers.add(first + ours)
        self._header_ns.add(found.header_ns[ours])
        self._order.add(found.header_ns[ours])
        self._receive_ns.add(receive_ns[ours])
        self._values.add(found.values[ours])
        self._samples += len(ours)

    def finish(self, name: str, config: Config) -> Stream:
        """Return the whole stream; raises UserError when it has no sample or no clock."""
        if not self._samples:
            ours = self._whose if self.read else ""
            declared = self._bag.topics[self.topic].declared
            raise UserError(f"topic {self.topic} holds no message{ours}; {declared} are declared")
        if self._leading:
            self._bag.warnings.append(
                f"topic {self.topic}: {self._leading} packets before the first key frame carry no image"
            )
        clock = self._clock(name, self._header_ns.array(), self._receive_ns.array(), config.data)
        return Stream(self.topic, self.read, clock, self._numbers.array(), self._values.array(), self._faults)

    def _starts(self, data: Bytes) -> bool:
        return starts_video(self._type, self._bag.deserialize(self.topic, data))

    def _clock(self, name: str, header_ns: sync.Int64, receive_ns: sync.Int64, data: DataConfig) -> sync.Clock:
        wanted = data.time_source_by_stream.get(name, data.time_source)
        if not (self._reader and self._reader.has_stamp):
            if wanted == "header":
                raise UserError(f"topic {self.topic}: {self._type} has no stamp; set data.time_source_by_stream.{name}")
            return sync.Clock(receive_ns, "receive", f"{self._type} has no stamp", None)
        step = sync.sampled_step(self._samples)
        try:
            clock = sync.choose_clock(thin(header_ns, step), thin(receive_ns, step), self._order, wanted)
        except UserError as error:
            raise UserError(f"topic {self.topic}: {error}") from error
        return clock._replace(stamps_ns=header_ns if clock.source == "header" else receive_ns)


def _play(bag: Bag, tracks: Sequence[_StreamReader]) -> None:
    tracks_of: dict[str, list[_StreamReader]] = {}
    for track in tracks:
        tracks_of.setdefault(track.topic, []).append(track)
    for batch in bag.batches(tracks_of):
        for topic, both in tracks_of.items():
            messages = [(receive_ns, data) for of, receive_ns, data in batch if of == topic]
            for track in both:
                track.add(messages)


def _joints(bag: Bag, topic: str, config: Config) -> _StreamReader:
    joints, wanted = tuple(config.conventions.joint_order), config.data.joint_fields
    reader = joint_state_reader(bag.types(topic), joints, wanted)
    return _StreamReader(bag, topic, reader, f" that names any of {', '.join(joints)}")


def _command(bag: Bag, topic: str, config: Config) -> _StreamReader:
    joints = tuple(config.conventions.joint_order)
    reader = command_reader(bag.types(topic), bag.topics[topic].type, joints)
    return _StreamReader(bag, topic, reader, f" that names any of {', '.join(joints)}")


def _state_field(bag: Bag, topic: str, path: str) -> _StreamReader:
    matched = FIELD_PATH.fullmatch(path)
    assert matched
    try:
        reader = number_reader(bag.types(topic), bag.topics[topic].type, matched["path"])
    except UserError as error:
        raise UserError(f"topic {topic}: {error}") from error
    return _StreamReader(bag, topic, reader)


def _camera(bag: Bag, topic: str) -> _StreamReader:
    return _StreamReader(bag, topic, stamp_reader(bag.types(topic), bag.topics[topic].type))


def _marks(bag: Bag, topic: str) -> _StreamReader | None:
    if topic not in bag.topics:
        bag.warnings.append(f"has no topic {topic} (data.split_topic): it is not split by it")
        return None
    try:
        return _StreamReader(bag, topic, stamp_reader(bag.types(topic), bag.topics[topic].type))
    except UserError:
        return _StreamReader(bag, topic, None)  # of any type: also of one that nobody can take apart


def _find_topic(bag: Bag, candidates: Sequence[str], types: Sequence[str]) -> str:
    present = [topic for topic in candidates if topic in bag.topics]
    if not present:
        held = ", ".join(f"{name} ({topic.type})" for name, topic in sorted(bag.topics.items())) or "none"
        raise UserError(f"has no topic {' or '.join(candidates[:2])}; its topics: {held}")
    topic = next((topic for topic in present if bag.topics[topic].declared), present[0])
    if types and bag.topics[topic].type not in types:
        raise UserError(f"topic {topic} holds {bag.topics[topic].type}, expected {' or '.join(types)}")
    return topic
