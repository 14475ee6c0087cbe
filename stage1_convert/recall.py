"""Versions of blobs in; the sha256 of the files that they were when they lay here last, out.

Blobs have no sha256, and a dataset knows its bags by nothing else. What a run learns of a bag that it brought down and
converted stays as a line in a file beside the downloads; the line is lost with no harm but another download.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.command import UserError
from stage1_convert.address import Address
from stage1_convert.service import RemoteFile

NAME = ".sums.jsonl"


class Recall:
    """What is known of bags below `root` that lie, or lay, at `address`."""

    def __init__(self, root: Path, address: Address) -> None:
        self._path = root / NAME
        self._place = (address.account, address.container)
        self._known: dict[str, dict[str, str]] = {}
        if self._path.is_symlink():
            raise UserError(f"{self._path} is a link, and downloads do not follow links; remove it")
        for line in self._path.read_bytes().splitlines() if self._path.is_file() else ():
            try:
                version, sums = json.loads(line)
                self._known[version] = dict(sums)
            except (ValueError, TypeError):  # cut off by a kill, or an empty line
                continue

    def sums(self, files: Iterable[RemoteFile]) -> Mapping[str, str] | None:
        """Return the sha256 of a bag's files by name, None where its blobs, in just these versions, never lay here."""
        return self._known.get(self._version(files))

    def keep(self, files: Iterable[RemoteFile], sums: Mapping[str, str]) -> None:
        """Remember them."""
        version = self._version(files)
        if self._known.get(version) != sums:
            self._known[version] = dict(sums)
            line = f"\n{json.dumps([version, self._known[version]])}\n"  # never glued to one that was cut off
            with self._path.open("ab") as file:
                file.write(line.encode())

    def _version(self, files: Iterable[RemoteFile]) -> str:
        known = [(file.blob, file.size, file.etag, file.md5.hex() if file.md5 else "") for file in files]
        return hashlib.sha256(json.dumps([self._place, known]).encode()).hexdigest()
