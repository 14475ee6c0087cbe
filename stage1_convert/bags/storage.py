"""What every kind of storage file gives: its channels, and their raw messages in the order of their receive times."""

from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

Bytes = bytes | memoryview  # a message may be a piece of a chunk: an image is not copied to be handed on
NO_DEFINITION = MessageDefinition(MessageDefinitionFormat.NONE, "")
FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}


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
        """Give the file back."""
        ...


def definition(encoding: str, text: str) -> MessageDefinition:
    """Return a message definition as rosbags takes it; one in a language that nobody asked for is none."""
    return MessageDefinition(FORMATS[encoding], text) if encoding in FORMATS and text else NO_DEFINITION
