"""One ROS 2 bag in; its topics and its typed, stamped messages in the order in which they were received, out.

Each storage file is opened by itself: a metadata.yaml that is missing, damaged or at odds with the storage (rosbags
drops topics whose QoS text differs there) then costs nothing but its message counts, which are held against what was
read.
"""

import contextlib
import errno
import functools
import heapq
import itertools
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import yaml
from rosbags.interfaces import Connection, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from common.command import UserError, one_line
from stage1_convert.source import STORAGE_SUFFIXES, storage_files

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_MESSAGE_BYTES = 256 << 20
MAX_STAMP_NS = 1 << 62


class Topic(NamedTuple):
    """A topic's message type and how many messages the bag says it holds."""

    type: str
    declared: int


class Message(NamedTuple):
    """A message with both of its stamps; a header stamp that was never set is 0."""

    topic: str
    receive_ns: int
    header_ns: int
    content: Any


class Bag:
    """An open bag; `warnings` tells what is odd about it without making it unreadable."""

    def __init__(self, files: list[Path], readers: list[Reader], counts: dict[str, int], distro: str) -> None:
        self.files = files
        self.warnings: list[str] = []
        self._distro = distro
        self._readers = sorted(readers, key=lambda reader: reader.start_time)
        self.topics: dict[str, Topic] = {}
        for connection in (c for reader in self._readers for c in reader.connections):
            before = self.topics.get(connection.topic, Topic(connection.msgtype, 0))
            if before.type != connection.msgtype:
                raise UserError(f"topic {connection.topic} has two types: {before.type} and {connection.msgtype}")
            self.topics[connection.topic] = before._replace(declared=before.declared + connection.msgcount)
        for name in self.topics.keys() & counts.keys():
            self.topics[name] = self.topics[name]._replace(declared=counts[name])

    def messages(self, topics: Collection[str]) -> Iterator[Message]:
        """Yield the messages of `topics` in the order of their receive times.

        Raises UserError when the storage or a message is damaged.
        """
        with _as_user_error():
            last_ns = 0
            for connection, receive_ns, data in self._raw(topics):
                if not last_ns <= receive_ns < MAX_STAMP_NS:
                    raise UserError(f"{connection.topic}: receive time {receive_ns} ns follows {last_ns} ns")
                last_ns = receive_ns
                content: Any = self._deserialise(connection, data)
                stamp = content.header.stamp
                yield Message(connection.topic, receive_ns, stamp.sec * 1_000_000_000 + stamp.nanosec, content)

    def _raw(self, topics: Collection[str]) -> Iterator[tuple[Connection, int, bytes]]:
        wanted = [(reader, [c for c in reader.connections if c.topic in topics]) for reader in self._readers]
        streams = (reader.messages(connections) for reader, connections in wanted if connections)
        # Parts of a split bag follow each other: merging them all would hold a chunk of each in memory.
        if all(one.end_time <= two.start_time for one, two in itertools.pairwise(self._readers)):
            return itertools.chain.from_iterable(streams)
        return heapq.merge(*streams, key=lambda item: item[1])

    def _deserialise(self, connection: Connection, data: bytes) -> object:
        if connection.ext.serialization_format != "cdr":  # type: ignore[union-attr]
            raise UserError(f"{connection.topic} is serialised as {connection.ext.serialization_format!r}, not cdr")  # type: ignore[union-attr]
        if data[:4] == ZSTD_MAGIC:  # compression mode MESSAGE; a CDR message starts with a zero byte
            data = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read(MAX_MESSAGE_BYTES)
        types = _types(connection.msgtype, connection.msgdef, self._distro)
        return types.deserialize_cdr(data, connection.msgtype)


@contextlib.contextmanager
def open_bag(path: Path, scratch: Path, distro: str) -> Iterator[Bag]:
    """Open the bag folder or storage file at `path`; a compressed file is unpacked into the folder `scratch` first.

    `distro` names the message definitions of bags that carry none. Raises UserError when the bag cannot be read.
    """
    if path.is_dir():
        names, counts, warnings = _metadata(path / "metadata.yaml")
        listed = [path / name for name in names if (path / name).is_file()]
        warnings += [f"{name} is missing" for name in names if not (path / name).is_file()]
        files = listed or storage_files(path)
    else:
        files, counts, warnings = [path], {}, []
    if not files:
        raise UserError(f"holds no storage file ({', '.join(STORAGE_SUFFIXES)})")
    with contextlib.ExitStack() as stack:
        with _as_user_error():
            readers = [stack.enter_context(Reader(_unpacked(file, scratch))) for file in files]
            bag = Bag(files, readers, counts, distro)
        bag.warnings += warnings
        yield bag


@contextlib.contextmanager
def _as_user_error() -> Iterator[None]:
    """Turn whatever reading a bag raises into one kind of error.

    rosbags lets KeyError, struct.error, OverflowError, UnicodeDecodeError and the errors of apsw and zstd escape.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise UserError(f"cannot be read: {type(error).__name__}: {one_line(error)}") from error


def _metadata(path: Path) -> tuple[list[str], dict[str, int], list[str]]:
    """Return the storage files' names, the declared messages of each topic, and what is wrong with metadata.yaml."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        information = tree["rosbag2_bagfile_information"]
        names = [PurePosixPath(name).name for name in information["relative_file_paths"]]
        topics = information["topics_with_message_count"]
        counts = {topic["topic_metadata"]["name"]: int(topic["message_count"]) for topic in topics}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        return [], {}, [f"metadata.yaml is not readable ({type(error).__name__}): the storage was read without it"]
    return names, counts, []


def _unpacked(file: Path, scratch: Path) -> Path:
    write_ahead_log = file.with_name(file.name + "-wal")
    if write_ahead_log.exists() and write_ahead_log.stat().st_size:
        raise UserError(
            f"{write_ahead_log.name} holds messages that were never merged into {file.name}; merge them with: "
            f"sqlite3 {file.name} 'PRAGMA wal_checkpoint(TRUNCATE)'"
        )
    if file.suffix != ".zstd":
        return file
    target = scratch / file.stem
    with pa.CompressedInputStream(pa.OSFile(str(file)), "zstd") as packed, target.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
    return target


@functools.cache
def _types(msgtype: str, definition: MessageDefinition, distro: str) -> Typestore:
    if definition.format is not MessageDefinitionFormat.MSG:
        return get_typestore(Stores(f"ros2_{distro}"))
    types = get_typestore(Stores.EMPTY)
    types.register(get_types_from_msg(definition.data, msgtype))
    return types
