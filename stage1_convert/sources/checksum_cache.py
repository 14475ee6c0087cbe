"""Remembers the sha256 of bags by the versions of their files, so that an unchanged bag is not read again.

A dataset recognizes its bags by nothing but their content. What a run learns of a bag is one line of a file: [bag, version,
{file name: sha256}], where bag and version are digests of what tells bags, and versions of one bag, apart. The last line of
a bag counts. Losing a line costs a reading, or a download, and nothing else.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.storage.files import write_file


class _Entry(NamedTuple):
    bag: str
    version: str
    sums: dict[str, str]

    def line(self) -> bytes:
        """Return the entry as a line, which begins with a line break: the one before it may have been cut off."""
        return f"\n{json.dumps(self, separators=(',', ':'))}\n".encode()


class ChecksumCache:
    """The sha256 of bags, in the file `path`; nothing is remembered where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        entries = self._read()
        self._known = {entry.bag: entry for entry in entries}
        if len(entries) > 2 * len(self._known):
            with contextlib.suppress(OSError):
                write_file(self._path, b"".join(entry.line() for entry in self._known.values()))

    def get(self, bag: Sequence[str], version: Sequence[Any]) -> Mapping[str, str] | None:
        """Return the sha256 of a bag's files by name, None when they are not known of this version."""
        entry = self._known.get(_digest(bag))
        return entry.sums if entry and entry.version == _digest(version) else None

    def put(self, bag: Sequence[str], version: Sequence[Any], sums: Mapping[str, str]) -> None:
        """Remember the sha256 of a bag's files."""
        entry = _Entry(_digest(bag), _digest(version), dict(sums))
        if self._known.get(entry.bag) != entry:
            self._known[entry.bag] = entry
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("ab") as file:
                    file.write(entry.line())

    def _read(self) -> list[_Entry]:
        entries = []
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return []
        for line in lines:
            try:
                bag, version, sums = json.loads(line)
                entry = _Entry(bag, version, dict(sums))
            except (ValueError, TypeError, RecursionError):  # empty, cut off by a kill, or damaged
                continue
            if all(isinstance(text, str) for text in (bag, version, *entry.sums, *entry.sums.values())):
                entries.append(entry)
        return entries


def _digest(value: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
