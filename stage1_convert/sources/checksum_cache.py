"""Remembers the sha256 of downloaded bags by the versions of their blobs.

The service knows no sha256 of a blob, and a dataset recognizes its bags by nothing else. What a run learns of a bag is one
line of a file in the download folder: [bag, version, {file name: sha256}], where bag and version are digests. The last
line of a bag counts. Losing a line costs a download and nothing else.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.cli.command import UserError
from common.storage.files import write_file
from stage1_convert.sources.azure_client import Address, Blob

NAME = ".sums.jsonl"


class _Entry(NamedTuple):
    bag: str
    version: str
    sums: dict[str, str]

    def line(self) -> bytes:
        """Return the entry as a line, which begins with a line break: the one before it may have been cut off."""
        return f"\n{json.dumps(self, separators=(',', ':'))}\n".encode()


class ChecksumCache:
    """The sha256 of bags that were once downloaded from `address` into `root`."""

    def __init__(self, root: Path, address: Address) -> None:
        self._path, self._address = root / NAME, address
        if self._path.is_symlink():
            raise UserError(f"{self._path} is a link, and downloads do not follow links; remove it")
        entries = self._read()
        self._known = {entry.bag: entry for entry in entries}
        if len(entries) > 2 * len(self._known):
            write_file(self._path, b"".join(entry.line() for entry in self._known.values()))

    def get(self, blobs: Sequence[Blob]) -> Mapping[str, str] | None:
        """Return the sha256 of a bag's files by name, None when these versions of its blobs were never downloaded."""
        bag, version = self._digests(blobs)
        entry = self._known.get(bag)
        return entry.sums if entry and entry.version == version else None

    def put(self, blobs: Sequence[Blob], sums: Mapping[str, str]) -> None:
        """Remember the sha256 of a bag's files."""
        entry = _Entry(*self._digests(blobs), dict(sums))
        if self._known.get(entry.bag) != entry:
            self._known[entry.bag] = entry
            with self._path.open("ab") as file:
                file.write(entry.line())

    def _read(self) -> list[_Entry]:
        entries = []
        for line in self._path.read_bytes().splitlines() if self._path.is_file() else []:
            try:
                bag, version, sums = json.loads(line)
                entries.append(_Entry(bag, version, dict(sums)))
            except (ValueError, TypeError):  # empty, or cut off by a kill
                continue
        return entries

    def _digests(self, blobs: Sequence[Blob]) -> tuple[str, str]:
        """Return digests of what the bag is called and of the versions of its blobs."""
        names = [self._address.account, self._address.container, *(blob.name for blob in blobs)]
        versions = [(blob.size_bytes, blob.etag, blob.md5.hex() if blob.md5 else "") for blob in blobs]
        bag, version = (hashlib.sha256(json.dumps(value).encode()).hexdigest() for value in (names, versions))
        return bag, version
