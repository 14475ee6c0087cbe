"""Versions of blobs in; the sha256 of the files that they were when they lay here last, out.

Blobs have no sha256, and a dataset knows its bags by nothing else. What a run learns of a bag that it brought down stays
as a line in a file beside the downloads; the line is lost with no harm but another download. A bag's last line counts, and
the file is written anew when most of its lines do not.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.cli.command import UserError
from common.storage.files import write_file
from stage1_convert.sources.azure_client import Address
from stage1_convert.sources.azure_service import RemoteFile

NAME = ".sums.jsonl"
Known = tuple[str, dict[str, str]]  # a bag's version, and the sha256 of its files


class ChecksumCache:
    """What is known of bags below `root` that lie, or lay, at `address`."""

    def __init__(self, root: Path, address: Address) -> None:
        self._path = root / NAME
        self._place = (address.account, address.container)
        if self._path.is_symlink():
            raise UserError(f"{self._path} is a link, and downloads do not follow links; remove it")
        self._known, self._lines = self._read()

    def sums(self, files: Iterable[RemoteFile]) -> Mapping[str, str] | None:
        """Return the sha256 of a bag's files by name, None where its blobs, in just these versions, never lay here."""
        bag, version = self._bag_and_version(files)
        known, sums = self._known.get(bag, ("", {}))
        return sums if known == version else None

    def keep(self, files: Iterable[RemoteFile], sums: Mapping[str, str]) -> None:
        """Remember them."""
        bag, version = self._bag_and_version(files)
        if self._known.get(bag) == (version, sums):
            return
        self._known[bag] = version, dict(sums)
        self._lines += 1
        if self._lines > 2 * len(self._known):
            self._known = self._read()[0] | self._known  # of other runs, too
            write_file(self._path, "".join(map(_line, self._known, self._known.values())).encode())
            self._lines = len(self._known)
            return
        with self._path.open("ab") as file:
            file.write(_line(bag, self._known[bag]).encode())

    def _read(self) -> tuple[dict[str, Known], int]:
        """Return what the file tells, and in how many lines."""
        known = dict[str, Known]()
        text = self._path.read_bytes() if self._path.is_file() else b""
        lines = [line for line in text.splitlines() if line]
        for line in lines:
            try:
                bag, version, sums = json.loads(line)
                known[bag] = version, dict(sums)
            except (ValueError, TypeError):  # cut off by a kill
                continue
        return known, len(lines)

    def _bag_and_version(self, files: Iterable[RemoteFile]) -> tuple[str, str]:
        files = list(files)
        versions = [(file.size, file.etag, file.md5.hex() if file.md5 else "") for file in files]
        names = [*self._place, *(file.blob for file in files)]
        bag, version = (hashlib.sha256(json.dumps(of).encode()).hexdigest() for of in (names, versions))
        return bag, version


def _line(bag: str, known: Known) -> str:
    return f"\n{json.dumps([bag, *known], separators=(',', ':'))}\n"  # never glued to one that was cut off
