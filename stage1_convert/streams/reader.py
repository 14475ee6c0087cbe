"""Reads the streams of a bag: every message of their topics once."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from common.cli.command import UserError
from stage1_convert.bags.bag import Bag
from stage1_convert.bags.cdr import FieldBatch, FieldReader, empty_batch, stamp_reader
from stage1_convert.bags.message_types import VIDEO_TYPES
from stage1_convert.bags.storage import Bytes
from stage1_convert.config import COMMAND, JOINTS, Config, time_source_of
from stage1_convert.streams.angles import is_angle
from stage1_convert.streams.arrays import Bool, Float64, Int64
from stage1_convert.streams.bad_messages import BadMessage, number_faults, require_few
from stage1_convert.streams.clock import Clock
from stage1_convert.streams.joint_fields import JOINT_STATE, TRAJECTORY, check_index
from stage1_convert.streams.joint_groups import (
    JointGroup,
    find_contradiction,
    group_joints,
    partly_missing,
)
from stage1_convert.streams.shortage import require_commands_at_a_rate
from stage1_convert.streams.stream import BagStreams, Stream, choose_samples, subject, with_clock
from stage1_convert.streams.topics import dimensions, find_topics, split_path, stream_fields

MARKERS = ""  # the name of the stream of data.split_topic
StartsVideo = Callable[[Any], bool]  # tells whether the decoding of a video can begin with this packet


def read_streams(bag: Bag, config: Config, starts_video: StartsVideo) -> BagStreams:
    """Read every message of the wanted topics once; raises UserError when a topic is missing, empty or has no clock."""
    readers = [
        StreamReader(bag, name, topic, stream_fields(name, topic, bag, config), config, starts_video)
        for name, topic in find_topics(bag.topics, config).items()
    ]
    markers = _marker_readers(bag, config, starts_video)
    read_messages(bag, [*readers, *markers])
    streams: dict[str, Stream] = {}
    for reader in readers:
        streams |= reader.finish()
    marked = [marker.finish()[MARKERS].clock.stamps_ns for marker in markers if marker.read]
    return BagStreams(streams, np.concatenate([np.zeros(0, np.int64), *marked]))


class StreamReader:
    """Collects the samples of one stream, a few messages at a time; `read` counts the messages of its topic."""

    def __init__(
        self, bag: Bag, name: str, topic: str, fields: FieldReader | None, config: Config, starts_video: StartsVideo
    ) -> None:
        self.topic, self.read = topic, 0
        self._bag, self._name, self._type, self._fields = bag, name, bag.topics[topic].type, fields
        self._config, self._starts_video = config, starts_video
        self._skip = config.data.bad_messages == "skip" and name != MARKERS
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

    def finish(self) -> dict[str, Stream]:
        """Return the whole stream, or the streams of its groups of joints, by name.

        Raises UserError when it has no sample or no clock, a joint is missing, or two publishers contradict each other.
        """
        name, data = self._name, self._config.data
        if not self.read and name in data.initial_values:
            none = np.zeros(0, np.int64)
            silent = Clock(none, "receive", "no message: data.initial_values alone", None)
            return {name: Stream(self.topic, (name,), 0, silent, none, np.zeros((0, 1)), {}, none, none)}
        if not any(len(part[0]) for part in self._parts):
            raise UserError(self._without_sample())
        if self._leading:
            self._bag.warnings.append(
                f"topic {self.topic}: {self._leading} packets before the first key frame carry no image"
            )
        numbers, header_ns, receive_ns, labels, values = (
            np.concatenate(part) for part in zip(*self._parts, strict=True)
        )
        self._parts = []
        if name in (JOINTS, COMMAND):
            return self._joint_streams((numbers, header_ns, receive_ns, labels), values)
        self._check_index()
        names = () if name in (MARKERS, *data.cameras) else (name,)
        return {name: self._stream(name, names, (numbers, header_ns, receive_ns), values)}

    def _stream(
        self, name: str, names: tuple[str, ...], columns: tuple[Int64, Int64, Int64], values: Float64
    ) -> Stream:
        """Return a stream of the usable ones of some messages; `columns` are their numbers, stamps and receive times."""
        numbers, header_ns, receive_ns = columns
        clock = Clock(receive_ns, "receive", f"{self._type} has no stamp", None)
        stream = Stream(self.topic, names, self.read, clock, numbers, values, self._faults, header_ns, receive_ns)
        faults = number_faults(names, numbers, values, self._faults, self._config) if self._skip else {}
        usable = choose_samples(stream, ~np.isin(numbers, list(faults)))
        if self._fields and self._fields.has_stamp:
            usable = with_clock(name, usable, self._config.data)
        elif time_source_of(name, self._config.data) == "header":
            raise UserError(
                f"topic {self.topic}: {self._type} has no stamp; set data.time_source_by_stream.{name}=receive"
            )
        bad = []
        for number, fault in faults.items():
            row = int(np.searchsorted(numbers, number))
            stamp_ns = int(header_ns[row]) if usable.clock.source == "header" else 0
            bad.append(BadMessage(number, stamp_ns or int(receive_ns[row]), fault))
        require_few(subject(name, stream, self._config), bad, len(numbers))
        return usable._replace(bad=tuple(bad))

    def _joint_streams(self, columns: tuple[Int64, Int64, Int64, Int64], values: Float64) -> dict[str, Stream]:
        """Return a stream for each group of joints that come together, the largest by the plain name."""
        name, config, joints = self._name, self._config, self._config.conventions.joint_order
        given, labels = self._given_names(), columns[-1]
        groups = group_joints(given, labels, name, config)
        nameless = [-1, *(label for label, names in enumerate(given) if not names)]
        named = ~(np.isin(columns[0], list(self._faults)) & np.isin(labels, nameless))
        self._check_groups([group._replace(rows=group.rows & named) for group in groups.values()])
        streams: dict[str, Stream] = {}
        for group_name, group in groups.items():
            chosen = slice(None) if group.rows.all() else group.rows  # of an hour's messages no copy is made
            numbers, header_ns, receive_ns, labels = (column[chosen] for column in columns)
            fields = range(values.shape[1] // len(joints))
            kept = [field * len(joints) + joint for field in fields for joint in group.joints]
            number_names = tuple(dimensions(name, config)[column] for column in kept)
            known = values if len(groups) == 1 else values[np.flatnonzero(group.rows)[:, None], kept]
            stream = self._stream(name, number_names, (numbers, header_ns, receive_ns), known)
            if self._type == TRAJECTORY:
                require_commands_at_a_rate(self.topic, stream.clock.stamps_ns, config.data.fps)
            self._check_publishers(stream, labels[np.isin(numbers, stream.numbers)])
            streams[group_name] = stream
        return streams

    def _given_names(self) -> list[list[str]]:
        """Return the different sequences of names in the messages, those of commands as data.command_joints renames them."""
        renamed = self._config.data.command_joints if self._name == COMMAND else {}
        return [
            [renamed.get(joint, joint) for joint in names] for names in (self._fields.labels if self._fields else ())
        ]

    def _check_groups(self, groups: Sequence[JointGroup]) -> None:
        joints = self._config.conventions.joint_order
        for group in groups:
            if not group.rows.any():
                held = ", ".join(dict.fromkeys(joint for names in self._given_names() for joint in names))
                raise UserError(
                    f"topic {self.topic}: joint {joints[group.joints[0]]} is missing; its messages name {held}; name the "
                    "joints in conventions.joint_order, and those of another topic in data.state_fields"
                )
        for group in partly_missing(groups):
            named = ", ".join(joints[joint] for joint in group.joints)
            self._bag.warnings.append(
                f"topic {self.topic}: only {np.count_nonzero(group.rows)} of {len(group.rows)} messages hold {named}"
            )

    def _check_publishers(self, stream: Stream, labels: Int64) -> None:
        angles = is_angle(stream.names, self._config)
        values = stream.values if angles.all() else stream.values[:, angles]
        found = find_contradiction(stream.clock.stamps_ns, values, labels, self._config.data.max_joint_speed_rad_s)
        if found:
            raise UserError(
                f"topic {self.topic}: two publishers contradict each other about {', '.join(stream.names)}: {found}; "
                "record one of them alone, by another topic for the other, or raise the setting if the joints are so fast"
            )

    def _check_index(self) -> None:
        path = self._config.data.paths.get(self._name)
        if path and self._fields and self._type == JOINT_STATE:
            try:
                check_index(split_path(path)[1], self._fields.labels)
            except UserError as error:
                raise UserError(f"topic {self.topic}: {error}") from error

    def _without_sample(self) -> str:
        """Return why the stream has no sample; the names in the messages are those of other joints."""
        name, data, wanted = self._name, self._config.data, self._config.conventions.joint_order
        path = data.paths.get(name)
        held = dict.fromkeys(joint for names in (self._fields.labels if self._fields else ()) for joint in names)
        about = f" that names any of {', '.join(wanted)}" if self.read and name in (JOINTS, COMMAND) else ""
        about = f" that holds {path}" if self.read and path else about
        names = f"; they name {', '.join(held)}" if held and about else ""
        hint = ""
        if names and name == COMMAND:
            hint = "; data.command_joints says how they are called there"
        elif names and name == JOINTS:
            hint = "; conventions.joint_order names the joints"
        elif name in data.state_fields:
            hint = f"; data.initial_values={{{name}: NUMBER}} stands in for it"
        elif name in data.cameras:
            hint = "; leave it out of data.cameras"
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


class TopicReader(Protocol):
    """What takes the messages of a topic."""

    topic: str

    def add(self, messages: Sequence[tuple[int, Bytes]], /) -> None:
        """Take the next messages, pairs of receive time and CDR."""


def read_messages(bag: Bag, readers: Sequence[TopicReader]) -> None:
    """Hand every message to the readers of its topic: several of them may share one."""
    for batch in bag.batches(dict.fromkeys(reader.topic for reader in readers)):
        by_topic: dict[str, list[tuple[int, Bytes]]] = {}
        for topic, receive_ns, data in batch:
            by_topic.setdefault(topic, []).append((receive_ns, data))
        for reader in readers:
            if reader.topic in by_topic:
                reader.add(by_topic[reader.topic])


def _marker_readers(bag: Bag, config: Config, starts_video: StartsVideo) -> list[StreamReader]:
    """Return the reader of data.split_topic, none without such a topic."""
    topic = config.data.split_topic
    if topic is None:
        return []
    if topic not in bag.topics:
        bag.warnings.append(f"has no topic {topic} (data.split_topic): it is not split by it")
        return []
    fields = None
    with contextlib.suppress(UserError):  # markers may be of a type that nobody defines: their receive times count
        fields = stamp_reader(bag.types(topic), bag.topics[topic].type)
    return [StreamReader(bag, MARKERS, topic, fields, config, starts_video)]
