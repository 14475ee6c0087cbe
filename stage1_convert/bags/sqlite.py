"""Reads rosbag2 sqlite3 files: their channels and messages, also those that are only in the write-ahead log.

rosbags opens such files as immutable, which hides the write-ahead log, and drops topics whose QoS text differs.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

from common.cli.command import UserError
from stage1_convert.bags.storage import NO_DEFINITION, SIDECARS, Channel, definition

RECOVER = "`sqlite3 OLD.db3 .recover | sqlite3 NEW.db3` may save the rest"


class Database:
    """An open .db3 file; the file and its folder are never written to."""

    def __init__(self, path: Path, scratch: Path, warnings: list[str]) -> None:
        leftovers = [path.with_name(path.name + ending) for ending in SIDECARS]
        leftovers = [file for file in leftovers if file.is_file() and file.stat().st_size]
        if leftovers:
            path = _copy(path, leftovers, scratch)  # sqlite merges them when it opens the copy
            warnings.append(f"{leftovers[0].name} was never merged into {path.name}: it was read merged into a copy")
        self._connection = sqlite3.connect(path.absolute().as_uri() + ("" if leftovers else "?immutable=1"), uri=True)
        try:
            self.channels = self._read_channels()
            self.start_ns, self.end_ns = self._count()
        except BaseException:
            self.close()
            raise

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield (channel, receive time in ns, serialized message) in the order of the receive times."""
        placeholders = ", ".join("?" * len(wanted))
        query = (
            f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({placeholders}) ORDER BY timestamp, id"  # noqa: S608
        )
        for channel, receive_ns, data in self._connection.execute(query, tuple(wanted)):
            if not (type(receive_ns) is int and type(data) is bytes):
                raise UserError(
                    f"a row of topic {self.channels[channel].topic} holds no message: it is damaged; {RECOVER}"
                )
            yield channel, receive_ns, data

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _read_channels(self) -> dict[int, Channel]:
        definitions = {}
        with contextlib.suppress(sqlite3.OperationalError):  # bags older than Iron have no such table
            query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            definitions = {name: definition(*rest) for name, *rest in self._connection.execute(query)}
        topics = self._connection.execute("SELECT id, name, type, serialization_format FROM topics ORDER BY id")
        return {
            number: Channel(name, msgtype, serialization, definitions.get(msgtype, NO_DEFINITION), 0)
            for number, name, msgtype, serialization in topics
        }

    def _count(self) -> tuple[int, int]:
        """Count each channel's rows in the table, and compare their sum with the index by which they are read.

        Returns the first and the last receive time.
        """
        first, last, total = [], [], 0
        query = "SELECT topic_id, COUNT(*), MIN(timestamp), MAX(timestamp) FROM messages NOT INDEXED GROUP BY topic_id"
        for channel, count, start_ns, end_ns in self._connection.execute(query):
            if channel not in self.channels:
                raise UserError(
                    f"{count} messages belong to topic number {channel}, which is not in the list of topics: the file is "
                    f"damaged; {RECOVER}"
                )
            self.channels[channel] = self.channels[channel]._replace(declared=count)
            first.append(start_ns)
            last.append(end_ns)
            total += count
        (indexed,) = self._connection.execute("SELECT COUNT(*) FROM messages WHERE timestamp > -1").fetchone()
        if indexed != total:
            raise UserError(f"the table holds {total} messages and its index {indexed}: the file is damaged; {RECOVER}")
        return min(first, default=0), max(last, default=0)


def _copy(path: Path, leftovers: list[Path], scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)
    for file in (path, *leftovers):
        shutil.copy(file, scratch / file.name)
        (scratch / file.name).chmod(0o600)  # a read-only recording gives a read-only copy
    return scratch / path.name
