"""Reads ROS 1 .bag files with rosbags: their channels, and their messages converted to the CDR form of ROS 2."""

import functools
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from rosbags.rosbag1 import Reader, ReaderError
from rosbags.rosbag1.reader import decompressors

from common.cli.command import UserError, one_line
from stage1_convert.bags.compression import unpack
from stage1_convert.bags.message_types import ros1_to_cdr
from stage1_convert.bags.storage import Channel

MAGIC = b"#ROSBAG V2.0\n"


class Rosbag1:
    """An open .bag file; one without an index, as a recorder that is killed leaves it, is refused."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise UserError("is no ROS 1 bag of format 2.0: it does not begin like one; copy or download it again")
        self._reader = Reader(path)
        try:
            self._reader.open()
        except ReaderError as error:
            reason = one_line(error)
            raise UserError(
                f"cannot be read ({reason}): {_way_out(path, reason)}, or leave it out by data.exclude"
            ) from error
        for position, chunk in self._reader.chunks.items():
            self._reader.chunks[position] = chunk._replace(decompressor=_bounded(chunk.decompressor))
        self.channels = {
            c.id: Channel(c.topic, c.msgtype, "cdr", c.msgdef, c.msgcount) for c in self._reader.connections
        }
        self.start_ns, self.end_ns = self._reader.start_time, self._reader.end_time

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield (channel, receive time in ns, message as CDR) in the order of the receive times."""
        connections = [c for c in self._reader.connections if c.id in wanted]
        if connections:  # for none rosbags would give all
            for connection, receive_ns, data in self._reader.messages(connections):
                yield connection.id, receive_ns, ros1_to_cdr(data, connection.msgtype, connection.msgdef)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def _way_out(path: Path, reason: str) -> str:
    """Return what makes a bag readable, by why rosbags cannot read it."""
    if "not indexed" in reason:
        left = f" and remove {path.stem}.orig.bag, which that leaves" if path.suffix == ".bag" else ""
        return f"write its index with `rosbag reindex {path.name}`{left}"
    return "decrypt it first" if "encryption" in reason else "copy or download it again"


def _bounded(decompress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Return a decompressor that refuses what expands implausibly; that of rosbags does not."""
    codec = next((name for name in ("bz2", "lz4") if decompressors[name] is decompress), None)
    return functools.partial(unpack, codec=codec) if codec else decompress
