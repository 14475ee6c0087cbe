"""A ROS 1 .bag in; its channels and its messages, converted to the CDR form of ROS 2, out. rosbags does all of it."""

from collections.abc import Collection, Iterator
from pathlib import Path

from rosbags.rosbag1 import Reader

from stage1_convert.definitions import typestore
from stage1_convert.storage import Channel


class Rosbag1:
    """An open .bag file."""

    def __init__(self, path: Path) -> None:
        self._reader = Reader(path)
        self._reader.open()
        self.channels = {
            c.id: Channel(c.topic, c.msgtype, "cdr", c.msgdef, c.msgcount) for c in self._reader.connections
        }
        self.start_ns, self.end_ns = self._reader.start_time, self._reader.end_time

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield (channel, receive time in ns, message as CDR) in the order of the receive times."""
        connections = [c for c in self._reader.connections if c.id in wanted]
        if connections:  # for none rosbags would give all
            for connection, receive_ns, data in self._reader.messages(connections):
                types = typestore(connection.msgtype, connection.msgdef)
                yield connection.id, receive_ns, bytes(types.ros1_to_cdr(data, connection.msgtype))

    def close(self) -> None:
        """Give the file back."""
        self._reader.close()
