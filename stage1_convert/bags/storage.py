"""Storage files: which files of a folder hold messages, what each kind of them provides, and the limits for reading them."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from common.cli.command import UserError
from common.storage.worker import Limits

STORAGE_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd", ".bag", ".bag.active")
SIDECARS = ("-wal", "-journal")  # endings of what sqlite leaves beside a .db3 when its recorder is killed
SLOWEST_BYTES_PER_S = 50_000  # reading on a busy machine is faster than this; a slower reader hangs

Bytes = bytes | memoryview  # a large message is a view of its chunk: images are not copied
DAMAGED = b""  # stands for a message that does not unpack or convert: no message is empty
LEAVE_OUT = "copy or download it again, or leave it out by data.exclude"
NO_DEFINITION = MessageDefinition(MessageDefinitionFormat.NONE, "")
FORMATS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "ros1msg": MessageDefinitionFormat.MSG,
}


class Channel(NamedTuple):
    """A topic within one storage file; `declared` is how many messages the file says it holds."""

    topic: str
    type: str
    serialization: str
    definition: MessageDefinition
    declared: int


class Storage(Protocol):
    """An open storage file; no message lies outside start_ns..end_ns."""

    channels: dict[int, Channel]
    start_ns: int
    end_ns: int

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, int, Bytes]]:
        """Yield (channel, receive time in ns, serialized message)."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def require_message(data: Bytes) -> None:
    """Raise UserError for what stands for a damaged message."""
    if not data:
        raise UserError("the message is damaged: it does not unpack, or is no message of ROS 1")


def definition(encoding: str, text: str) -> MessageDefinition:
    """Return a message definition for rosbags; one in an unknown language counts as none."""
    return MessageDefinition(FORMATS[encoding], text) if encoding in FORMATS and text else NO_DEFINITION


def is_storage(name: str) -> bool:
    """Return whether a file of this name holds messages."""
    return name.endswith(STORAGE_SUFFIXES) and not name.startswith(".")


def storage_files(folder: Path) -> list[Path]:
    """Return the storage files directly in `folder`, sorted by name."""
    return sorted(path for path in folder.iterdir() if is_storage(path.name) and path.is_file())


def content_files(bag: Path) -> list[Path]:
    """Return all files that a bag is read from: storage files with their logs, and metadata.yaml."""
    files = [*storage_files(bag), *bag.glob("metadata.yaml")] if bag.is_dir() else [bag]
    logs = [file.with_name(file.name + ending) for file in files for ending in SIDECARS]
    return files + [log for log in logs if log.is_file() and log.stat().st_size]


def storage_format(name: str) -> str:
    """Return the format of a storage file by its name: mcap, sqlite3 or rosbag1."""
    return "mcap" if ".mcap" in name else "sqlite3" if ".db3" in name else "rosbag1"


def limits_for(size_bytes: int) -> Limits:
    """Return the memory and time limits of a process that reads a bag of this size; a damaged bag may ask for more."""
    return Limits((2 << 30) + 4 * size_bytes, 120 + size_bytes / SLOWEST_BYTES_PER_S)
