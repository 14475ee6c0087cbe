"""An open bag: its topics, and its messages in the order in which they were received.

Each storage file is opened by itself. A metadata.yaml that is missing, damaged or at odds with the storage costs nothing but
its message counts, which are compared with what was read. Messages are passed on as CDR bytes: `deserialize` gives one as an
object, and cdr.py reads a few numbers of many.
"""

import contextlib
import errno
import heapq
import itertools
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import yaml
from rosbags.typesys.store import Typestore

from common.cli.command import UserError, one_line
from stage1_convert.bags.compression import ZSTD_MAGIC, unpack, unpack_file
from stage1_convert.bags.mcap import Mcap
from stage1_convert.bags.message_files import MessageFile
from stage1_convert.bags.message_types import typestore
from stage1_convert.bags.ros1 import Rosbag1
from stage1_convert.bags.sqlite import RECOVER, Database
from stage1_convert.bags.storage import (
    DAMAGED,
    LEAVE_OUT,
    NO_DEFINITION,
    STORAGE_SUFFIXES,
    Bytes,
    Channel,
    Storage,
    require_message,
    storage_files,
)

YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_STAMP_NS = 1 << 62
# How files begin that a clone leaves in place of large ones.
POINTERS = {
    b"version https://git-lfs.github.com/spec/": "is a Git LFS pointer and not the recording: run `git lfs pull`",
    b"/annex/objects/": "is a git-annex pointer and not the recording: run `git annex get`",
}
BATCH_MESSAGES = 1024
BATCH_BYTES = 4 << 20


class Topic(NamedTuple):
    """A topic's message type and how many messages the bag says it holds."""

    type: str
    declared: int


class Record(NamedTuple):
    """A message as it was stored: CDR bytes, already decompressed."""

    topic: str
    receive_ns: int
    data: Bytes


class Metadata(NamedTuple):
    """The content of metadata.yaml: names of the storage files, topics, custom data, and what is wrong with it."""

    names: list[str]
    topics: dict[str, Topic]
    custom: dict[str, str]
    warnings: list[str]


class Bag:
    """An open bag; `warnings` says what is odd about it without making it unreadable, and may grow while it is read.

    `custom` is the custom data of its metadata.yaml.
    """

    def __init__(
        self,
        files: list[Path],
        storages: list[Storage],
        metadata: Metadata,
        distro: str,
        message_files: tuple[MessageFile, ...] = (),
    ) -> None:
        self.files = files
        self.custom = metadata.custom
        self.warnings = metadata.warnings
        self._distro, self._message_files = distro, message_files
        self._storages = sorted(storages, key=lambda storage: storage.start_ns)
        self._channels: dict[str, list[Channel]] = {}
        for storage in self._storages:
            for channel in storage.channels.values():
                self._channels.setdefault(channel.topic, []).append(channel)
        self.topics = {
            name: Topic(channels[0].type, sum(channel.declared for channel in channels))
            for name, channels in self._channels.items()
        }
        for name, topic in metadata.topics.items():
            known = self.topics.get(name, topic)
            self.topics[name] = known._replace(declared=topic.declared)

    @property
    def span_ns(self) -> tuple[int, int]:
        """Return the receive times between which all messages lie."""
        return min(one.start_ns for one in self._storages), max(one.end_ns for one in self._storages)

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        """Yield the messages of `topics` as CDR bytes in the order of their receive times.

        Raises UserError when the storage is damaged beyond reading, or a topic is of two types or not stored as CDR.
        """
        for batch in self.batches(topics):
            yield from itertools.starmap(Record, batch)

    def batches(self, topics: Collection[str]) -> Iterator[list[tuple[str, int, Bytes]]]:
        """Yield what `records` does as plain tuples in batches of at most a few megabytes."""
        for topic in topics:
            self.check_topic(topic)
        with as_user_error():
            stream, last_ns = self._merged(topics), 0
            while batch := _next_batch(stream):
                times_ns = np.array([last_ns, *(receive_ns for _, receive_ns, _ in batch)], np.int64)
                wrong = np.flatnonzero((np.diff(times_ns) < 0) | (times_ns[1:] >= MAX_STAMP_NS))
                if len(wrong):
                    index = int(wrong[0])
                    topic, before_ns, receive_ns = batch[index][0], *times_ns[index : index + 2]
                    raise UserError(
                        f"{topic}: receive time {receive_ns} ns follows {before_ns} ns: the bag is damaged; {LEAVE_OUT}"
                    )
                last_ns = int(times_ns[-1])
                yield batch

    def deserialize(self, topic: str, data: Bytes) -> Any:
        """Return one message of a topic as an object; raises UserError when it is damaged."""
        require_message(data)
        types = self.types(topic)
        with as_user_error("the message is damaged: it ", remedy=""):
            return types.deserialize_cdr(data, self.topics[topic].type)

    def types(self, topic: str) -> Typestore:
        """Return a typestore with the type of `topic`; raises UserError when there is no definition of it."""
        channels = self._channels.get(topic, [])
        known = [channel.definition for channel in channels if channel.definition.data]
        with as_user_error():
            definition = known[0] if known else NO_DEFINITION
            return typestore(self.topics[topic].type, definition, self._distro, self._message_files)

    def check_topic(self, topic: str) -> None:
        """Raise UserError when messages of a topic cannot be read: two types, or not stored as CDR."""
        channels = self._channels.get(topic, [])
        types = sorted({channel.type for channel in channels})
        if len(types) > 1:
            raise UserError(f"topic {topic} has two types: {types[0]} and {types[1]}; record it again, or use another")
        foreign = next((c.serialization for c in channels if c.serialization not in ("cdr", "")), None)
        if foreign:
            raise UserError(
                f"topic {topic} is serialized as {foreign!r}, and only cdr and ros1 can be read: record it with ROS, or "
                "convert the file to ROS messages first"
            )

    def _merged(self, topics: Collection[str]) -> Iterator[tuple[str, int, Bytes]]:
        streams = [_read_topics(storage, topics) for storage in self._storages]
        # The files of a split bag follow each other: a merge would hold a chunk of each in memory.
        if all(one.end_ns <= two.start_ns for one, two in itertools.pairwise(self._storages)):
            return itertools.chain.from_iterable(streams)
        return heapq.merge(*streams, key=lambda item: item[1])


@contextlib.contextmanager
def open_bag(path: Path, scratch: Path, distro: str, message_files: tuple[MessageFile, ...] = ()) -> Iterator[Bag]:
    """Open the bag folder or storage file at `path`; what must be decompressed or merged first goes into `scratch`.

    `message_files`, then those of the ROS 2 `distro`, define the messages of bags that do not define them. Raises UserError
    when the bag cannot be read.
    """
    metadata, files = Metadata([], {}, {}, []), [path]
    if path.is_dir():
        metadata = _read_metadata(path / "metadata.yaml")
        files = _listed_files(path, metadata)
    if not files:
        raise UserError(f"holds no storage file ({', '.join(STORAGE_SUFFIXES)}); {LEAVE_OUT}")
    with contextlib.ExitStack() as stack:
        storages: list[Storage] = []
        for file in files:
            with as_user_error(f"{file.name} " if len(files) > 1 else ""):
                storage = _open(file, scratch, metadata.warnings)
            stack.callback(storage.close)
            storages.append(storage)
        yield Bag(files, storages, metadata, distro, message_files)


@contextlib.contextmanager
def as_user_error(subject: str = "", remedy: str = LEAVE_OUT) -> Iterator[None]:
    """Turn whatever reading a bag raises into UserError: the one place where exceptions of other libraries end.

    rosbags lets KeyError, struct.error, OverflowError and UnicodeDecodeError escape; sqlite3, Arrow and yaml have their own.
    """
    try:
        yield
    except UserError as error:
        if not subject:
            raise
        raise UserError(f"{subject}{error}") from error
    except MemoryError:
        raise  # says nothing about the bag's content: whoever limits the memory tells the size of the bag
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        remedy = RECOVER if isinstance(error, sqlite3.DatabaseError) else remedy
        fault = f"{subject}cannot be read: {type(error).__name__}: {one_line(error)}"
        raise UserError(f"{fault}; {remedy}" if remedy else fault) from error


def _next_batch(stream: Iterator[tuple[str, int, Bytes]]) -> list[tuple[str, int, Bytes]]:
    batch, size = [], 0
    for topic, receive_ns, data in stream:
        plain = data
        if data[:4] == ZSTD_MAGIC:  # compression mode MESSAGE; a CDR message starts with a zero byte
            try:
                plain = unpack(bytes(data), "zstd")
            except (UserError, OSError, ValueError):
                plain = DAMAGED
        batch.append((topic, receive_ns, plain))
        size += len(plain)
        if size > BATCH_BYTES or len(batch) == BATCH_MESSAGES:
            break
    return batch


def _read_topics(storage: Storage, topics: Collection[str]) -> Iterator[tuple[str, int, Bytes]]:
    names = {number: channel.topic for number, channel in storage.channels.items() if channel.topic in topics}
    if names:
        for number, receive_ns, data in storage.read(names):
            yield names[number], receive_ns, data


def _open(file: Path, scratch: Path, warnings: list[str]) -> Storage:
    _check_content(file)
    name = file.name.removesuffix(".zstd")
    if name != file.name:
        packed, file = file, scratch / name
        unpack_file(packed, file)
    if name.endswith(".mcap"):
        return Mcap(file, warnings)
    return Database(file, scratch, warnings) if name.endswith(".db3") else Rosbag1(file)


def _check_content(file: Path) -> None:
    """Raise UserError for a file that stands in for a recording and holds none of it."""
    with file.open("rb") as data:
        head = data.read(max(map(len, POINTERS)))
    if not head:
        raise UserError("is empty: a file of 0 bytes; copy or download it again")
    for start, remedy in POINTERS.items():
        if head.startswith(start):
            raise UserError(remedy)


def _listed_files(folder: Path, metadata: Metadata) -> list[Path]:
    """Return the storage files of a bag folder; files that metadata.yaml does not list are reported and not read."""
    present = storage_files(folder)
    listed = []
    for name in metadata.names:
        file = next((file for file in present if file.name in (name, f"{name}.zstd")), None)
        if file:
            listed.append(file)
        else:
            metadata.warnings.append(f"{name} is missing")
    if not listed:
        return present
    extra = [file.name for file in present if file not in listed]
    if extra:
        metadata.warnings.append(f"metadata.yaml does not list {', '.join(extra)}, which is not read")
    return listed


def _read_metadata(path: Path) -> Metadata:
    if not path.exists():
        fault = f"{path.name} is missing: files whose names and times follow each other were joined"
        return Metadata([], {}, {}, [fault])
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=YAML_LOADER)  # noqa: S506
        information = tree["rosbag2_bagfile_information"]
        names = [PurePosixPath(name).name for name in information["relative_file_paths"]]
        topics = {
            str(entry["topic_metadata"]["name"]): Topic(
                str(entry["topic_metadata"]["type"]), int(entry["message_count"])
            )
            for entry in information["topics_with_message_count"]
        }
        custom = {str(key): str(value) for key, value in (information.get("custom_data") or {}).items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, yaml.YAMLError) as error:
        why = getattr(error, "problem", None) or type(error).__name__
        return Metadata([], {}, {}, [f"metadata.yaml is not readable ({why}): the storage was read without it"])
    return Metadata(names, topics, custom, [])
