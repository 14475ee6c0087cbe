"""Reads the stamps and the numbers of every stream of a bag: everything but the images.

A stream is `joints`, a camera, a field or `command`, by the names of the config. Its samples are the usable messages of its
topic: another publisher may share the topic of the joints, a video stream may begin with packets that carry no image, and
data.bad_messages=skip leaves out those with something wrong in them.
`numbers` gives the place of each sample among all messages of the topic, for whoever reads the topic again; it is -1 for
a sample of data.initial_values. Joints that come in messages of their own, such as a gripper's, are a stream of their own:
`joints.NAME`, named after the first of them.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from rosbags.typesys.store import Typestore

from common.cli.command import UserError
from stage1_convert.align.bad_messages import BadMessage, number_faults, require_few
from stage1_convert.align.clock import Clock, Int64, choose_clock
from stage1_convert.align.episodes import rule_of
from stage1_convert.align.joint_fields import (
    COMMANDS,
    JOINT_STATE,
    TRAJECTORY,
    check_index,
    command_reader,
    field_reader,
    joint_state_reader,
)
from stage1_convert.align.joint_groups import JointGroup, find_contradiction, group_joints, partly_missing
from stage1_convert.align.resample import Bool, Float64
from stage1_convert.align.shortage import require_commands_at_a_rate
from stage1_convert.bags.bag import Bag, Topic
from stage1_convert.bags.cdr import FieldBatch, FieldReader, empty_batch, stamp_reader
from stage1_convert.bags.message_types import IMAGE_TYPES, VIDEO_TYPES
from stage1_convert.bags.storage import Bytes
from stage1_convert.config import COMMAND, FIELD_PATH, JOINTS, Config, DataConfig

IMAGE_TRANSPORTS = ("compressed", "compressedDepth", "ffmpeg")  # image_transport publishes them beside a raw topic

StartsVideo = Callable[[Any], bool]  # tells whether the decoding of a video can begin with this packet


class TypedTopics(Protocol):
    """What is known of the topics of a bag or a robot."""

    @property
    def topics(self) -> Mapping[str, Topic]:
        """The topics by name."""

    def types(self, topic: str) -> Typestore:
        """Return a typestore with the type of a topic."""


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


def read_streams(bag: Bag, config: Config, starts_video: StartsVideo) -> BagStreams:
    """Read every message of the wanted topics once; raises UserError when a topic is missing, empty or has no clock."""
    readers = {
        name: StreamReader(bag, topic, stream_fields(name, topic, bag, config), starts_video, config.data.bad_messages)
        for name, topic in find_topics(bag.topics, config).items()
    }
    markers = _marker_reader(bag, config.data.split_topic, starts_video)
    _read_messages(bag, [*readers.values(), *([markers] if markers else [])])
    streams: dict[str, Stream] = {}
    for name, reader in readers.items():
        streams |= reader.finish(name, config)
    markers_ns = markers.finish("", config)[""].clock.stamps_ns if markers and markers.read else np.zeros(0, np.int64)
    return BagStreams(streams, markers_ns)


def without(bag_streams: BagStreams, bad: Mapping[str, Sequence[BadMessage]], config: Config) -> BagStreams:
    """Return the streams without the bad images of some cameras, whose clocks are chosen anew by the images that are left."""
    streams = dict(bag_streams.streams)
    for name, messages in bad.items():
        stream = streams[name]
        usable = ~np.isin(stream.numbers, [message.number for message in messages])
        left = _placed(name, _chosen(stream, usable), config.data)
        streams[name] = left._replace(bad=tuple(sorted([*stream.bad, *messages])))
    return bag_streams._replace(streams=streams)


def find_topics(known: Mapping[str, Topic], config: Config) -> dict[str, str]:
    """Return the topic of each stream among those of a bag or a robot; raises UserError when one has none that fits."""
    if not any(topic.declared for topic in known.values()):
        raise UserError("is empty: it holds no message")
    data = config.data
    topics = {JOINTS: _find_topic(known, [data.joint_topic], (JOINT_STATE,))}
    for camera, topic in data.cameras.items():
        siblings = [] if topic.endswith(IMAGE_TRANSPORTS) else [f"{topic}/{kind}" for kind in IMAGE_TRANSPORTS]
        topics[camera] = _find_topic(known, [*siblings[:1], topic, *siblings[1:]], IMAGE_TYPES)
    for name, path in {**data.state_fields, **data.action_paths}.items():
        topics[name] = _find_topic(known, [_split_path(path)[0]], ())
    if config.has_commands:
        try:
            topics[COMMAND] = _find_topic(known, [data.command_topic or ""], COMMANDS)
        except UserError as error:
            hint = "; data.action_paths takes numbers of any topic as actions" if data.command_topic in known else ""
            raise UserError(f"{error}{hint}") from error
    return topics


class StreamReader:
    """Collects the samples of one stream, a few messages at a time; `read` counts the messages of its topic."""

    def __init__(
        self, bag: Bag, topic: str, fields: FieldReader | None, starts_video: StartsVideo, bad_messages: str = "refuse"
    ) -> None:
        self.topic, self.read = topic, 0
        self._skip = bad_messages == "skip"
        self._bag, self._type, self._fields = bag, bag.topics[topic].type, fields
        self._starts_video = starts_video
        self._awaits_key_frame = self._type in VIDEO_TYPES
        self._leading = 0  # packets before the first key frame
        self._parts: list[tuple[Int64, Int64, Int64, Int64, Float64]] = []
        self._faults: dict[int, str] = {}

    def add(self, messages: Sequence[tuple[int, Bytes]]) -> None:
        """Take the next messages of the topic, pairs of receive time and CDR."""
        found = self._fields.read([data for _, data in messages]) if self._fields else empty_batch(len(messages))
        rows = np.flatnonzero(self._usable(found, messages))
        receive_ns = np.array([receive_ns for receive_ns, _ in messages], np.int64)
        part = (self.read + rows, found.header_ns[rows], receive_ns[rows], found.labels[rows], found.values[rows])
        self._parts.append(part)
        self._faults |= {self.read + row: fault for row, fault in found.faults.items()}
        self.read += len(messages)

    def finish(self, name: str, config: Config) -> dict[str, Stream]:
        """Return the whole stream, or the streams of its groups of joints, by name.

        Raises UserError when it has no sample or no clock, a joint is missing, or two publishers contradict each other.
        """
        if not self.read and name in config.data.initial_values:
            none = np.zeros(0, np.int64)
            silent = Clock(none, "receive", "no message: data.initial_values alone", None)
            return {name: Stream(self.topic, (name,), 0, silent, none, np.zeros((0, 1)), {}, none, none)}
        if not any(len(part[0]) for part in self._parts):
            raise UserError(self._without_sample(name, config))
        if self._leading:
            self._bag.warnings.append(
                f"topic {self.topic}: {self._leading} packets before the first key frame carry no image"
            )
        numbers, header_ns, receive_ns, labels, values = (
            np.concatenate(part) for part in zip(*self._parts, strict=True)
        )
        self._parts = []
        if name not in (JOINTS, COMMAND):
            self._check_index(name, config)
            names = () if name in ("", *config.data.cameras) else (name,)
            return {name: self._stream(name, names, (numbers, header_ns, receive_ns), values, config)}
        return self._joint_streams(name, config, (numbers, header_ns, receive_ns, labels), values)

    def _stream(
        self, name: str, names: tuple[str, ...], columns: tuple[Int64, Int64, Int64], values: Float64, config: Config
    ) -> Stream:
        """Return a stream of the usable ones of some messages; `columns` are their numbers, stamps and receive times."""
        numbers, header_ns, receive_ns = columns
        clock = Clock(receive_ns, "receive", f"{self._type} has no stamp", None)
        stream = Stream(self.topic, names, self.read, clock, numbers, values, self._faults, header_ns, receive_ns)
        faults = number_faults(names, numbers, values, self._faults, config) if self._skip else {}
        usable = _chosen(stream, ~np.isin(numbers, list(faults)))
        if self._fields and self._fields.has_stamp:
            usable = _placed(name, usable, config.data)
        elif _wanted_clock(name, config.data) == "header":
            raise UserError(f"topic {self.topic}: {self._type} has no stamp; set data.time_source_by_stream.{name}")
        bad = []
        for number, fault in faults.items():
            row = int(np.searchsorted(numbers, number))
            stamp_ns = int(header_ns[row]) if usable.clock.source == "header" else 0
            bad.append(BadMessage(number, stamp_ns or int(receive_ns[row]), fault))
        require_few(subject(name, stream, config), bad, len(numbers))
        return usable._replace(bad=tuple(bad))

    def _joint_streams(
        self, name: str, config: Config, columns: tuple[Int64, Int64, Int64, Int64], values: Float64
    ) -> dict[str, Stream]:
        """Return a stream for each group of joints that come together, the largest by the plain name."""
        joints = config.conventions.joint_order
        groups = group_joints(
            self._names(name, config), columns[-1], joints, lambda joint: rule_of(f"{name}.{joint}", config.data)
        )
        self._check_groups(name, groups, config)
        streams: dict[str, Stream] = {}
        for group in groups:
            numbers, header_ns, receive_ns, labels = (column[group.rows] for column in columns)
            fields = range(values.shape[1] // len(joints))
            kept = [field * len(joints) + joint for field in fields for joint in group.joints]
            number_names = tuple(dimensions(name, config)[column] for column in kept)
            chosen = values if len(groups) == 1 else values[np.flatnonzero(group.rows)[:, None], kept]
            stream = self._stream(name, number_names, (numbers, header_ns, receive_ns), chosen, config)
            if self._type == TRAJECTORY:
                require_commands_at_a_rate(self.topic, stream.clock.stamps_ns, config.data.fps)
            if name == JOINTS:
                self._check_publishers(stream, labels[np.isin(numbers, stream.numbers)], config)
            streams[f"{name}.{joints[group.joints[0]]}" if streams else name] = stream
        return streams

    def _names(self, name: str, config: Config) -> list[list[str]]:
        """Return the different sequences of names in the messages, those of commands as data.command_joints renames them."""
        assert self._fields
        renamed = config.data.command_joints if name == COMMAND else {}
        return [[renamed.get(joint, joint) for joint in names] for names in self._fields.labels]

    def _check_groups(self, name: str, groups: Sequence[JointGroup], config: Config) -> None:
        joints = config.conventions.joint_order
        for group in groups:
            if not group.rows.any():
                held = ", ".join(dict.fromkeys(joint for names in self._names(name, config) for joint in names))
                raise UserError(
                    f"topic {self.topic}: joint {joints[group.joints[0]]} is missing; its messages name {held}; name the "
                    "joints in conventions.joint_order"
                )
        for group in partly_missing(groups):
            named = ", ".join(joints[joint] for joint in group.joints)
            self._bag.warnings.append(
                f"topic {self.topic}: only {np.count_nonzero(group.rows)} of {len(group.rows)} messages hold {named}"
            )

    def _check_publishers(self, stream: Stream, labels: Int64, config: Config) -> None:
        angles = [index for index, name in enumerate(stream.names) if name in config.conventions.joint_order]
        values = stream.values if len(angles) == len(stream.names) else stream.values[:, angles]
        found = find_contradiction(stream.clock.stamps_ns, values, labels, config.data.max_joint_speed_rad_s)
        if found:
            raise UserError(
                f"topic {self.topic}: two publishers contradict each other about {', '.join(stream.names)}: {found}; "
                "record one of them alone, by another topic for the other, or raise the setting if the joints are so fast"
            )

    def _check_index(self, name: str, config: Config) -> None:
        path = {**config.data.state_fields, **config.data.action_paths}.get(name)
        if path and self._fields and self._type == JOINT_STATE:
            try:
                check_index(_split_path(path)[1], self._fields.labels)
            except UserError as error:
                raise UserError(f"topic {self.topic}: {error}") from error

    def _without_sample(self, name: str, config: Config) -> str:
        """Return why the stream has no sample; the names in the messages are those of other joints."""
        wanted = config.conventions.joint_order
        path = {**config.data.state_fields, **config.data.action_paths}.get(name)
        held = dict.fromkeys(joint for names in (self._fields.labels if self._fields else ()) for joint in names)
        about = f" that names any of {', '.join(wanted)}" if self.read and name in (JOINTS, COMMAND) else ""
        about = f" that holds {path}" if self.read and path else about
        names = f"; they name {', '.join(held)}" if held and about else ""
        hint = "; data.command_joints says how they are called there" if names and name == COMMAND else ""
        hint = "; conventions.joint_order names the joints" if names and name == JOINTS else hint
        declared = self._bag.topics[self.topic].declared
        return f"topic {self.topic} holds no message{about}; {declared} are declared{names}{hint}"

    def _usable(self, found: FieldBatch, messages: Sequence[tuple[int, Bytes]]) -> Bool:
        """Return (messages,), which of the messages are samples of the stream, or bad ones."""
        usable = found.relevant.copy()
        for row, (_, data) in enumerate(messages):
            if not self._awaits_key_frame:
                break
            try:
                self._awaits_key_frame = not self._starts_video(self._bag.deserialize(self.topic, data))
            except UserError as error:
                if not self._skip:
                    raise
                found.faults.setdefault(row, str(error))
                continue
            usable[row] = not self._awaits_key_frame
            self._leading += self._awaits_key_frame
        return usable


def subject(name: str, stream: Stream, config: Config) -> str:
    """Return what a message about one of a stream's messages begins with."""
    return f"camera {name}" if name in config.data.cameras else f"topic {stream.topic}"


def _chosen(stream: Stream, usable: Bool) -> Stream:
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


def _placed(name: str, stream: Stream, data: DataConfig) -> Stream:
    """Return a stream whose messages carry a stamp with the clock that suits its samples."""
    if not len(stream.numbers):
        return stream
    try:
        return stream._replace(clock=choose_clock(stream.header_ns, stream.receive_ns, _wanted_clock(name, data)))
    except UserError as error:
        raise UserError(f"topic {stream.topic}: {error}") from error


def _read_messages(bag: Bag, readers: Sequence[StreamReader]) -> None:
    """Hand every message to the readers of its topic: several streams may share one."""
    for batch in bag.batches(dict.fromkeys(reader.topic for reader in readers)):
        by_topic: dict[str, list[tuple[int, Bytes]]] = {}
        for topic, receive_ns, data in batch:
            by_topic.setdefault(topic, []).append((receive_ns, data))
        for reader in readers:
            if reader.topic in by_topic:
                reader.add(by_topic[reader.topic])


def stream_fields(name: str, topic: str, source: TypedTopics, config: Config) -> FieldReader:
    """Return the reader of the fields that a stream is made of; raises UserError when its topic's type has none of them."""
    types, msgtype, joints = source.types(topic), source.topics[topic].type, tuple(config.conventions.joint_order)
    paths = {**config.data.state_fields, **config.data.action_paths}
    if name == JOINTS:
        return joint_state_reader(types, joints, config.data.joint_fields)
    if name == COMMAND:
        return command_reader(types, msgtype, joints, config.data.command_joints)
    if name in config.data.cameras:
        return stamp_reader(types, msgtype)
    try:
        return field_reader(types, msgtype, _split_path(paths[name])[1])
    except UserError as error:
        raise UserError(f"topic {topic}: {error}") from error


def _wanted_clock(name: str, data: DataConfig) -> str:
    return data.time_source_by_stream.get(name, data.time_source)


def dimensions(name: str, config: Config) -> list[str]:
    """Return the names of the numbers of a whole stream: those of the joints before they are divided into groups."""
    joints = config.conventions.joint_order
    if name == JOINTS:
        return list(config.state_names[: len(joints) * len(config.data.joint_fields)])
    return joints if name == COMMAND else [name]


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


def _find_topic(known: Mapping[str, Topic], candidates: Sequence[str], types: Sequence[str]) -> str:
    present = [topic for topic in candidates if topic in known]
    if not present:
        held = ", ".join(f"{name} ({topic.type})" for name, topic in sorted(known.items())) or "none"
        raise UserError(
            f"has no topic {' or '.join(candidates[:2])}; its topics: {held}; "
            "--inspect proposes settings, and --join makes one of bags that were recorded at the same time"
        )
    topic = next((topic for topic in present if known[topic].declared), present[0])
    if types and known[topic].type not in types:
        raise UserError(f"topic {topic} holds {known[topic].type}, expected {' or '.join(types)}")
    return topic
