"""Remembers the sha256 of bags by the versions of their files, so that an unchanged bag is not read again.

A dataset recognizes its bags by nothing but their content. The file is one JSON object, {bag: [version, {file name:
sha256}]}, where bag and version are digests of what tells bags, and versions of one bag, apart. It is written whole: of two
runs at once, the last one's counts. Losing it costs a reading, or a download, of every bag and nothing else.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli.command import UserError
from common.cli.validation import validate
from common.storage.files import read_json, remove_stale, write_json

SAVE_PERIOD_S = 10.0  # what a killed run may forget


class ChecksumCache:
    """The sha256 of bags, in the file `path`; one that is damaged or foreign, or cannot be written, remembers nothing."""

    def __init__(self, path: Path) -> None:
        self._path, self._saved_s, self._is_saved = path, time.monotonic(), True
        self._known: dict[str, tuple[str, dict[str, str]]] = {}
        with contextlib.suppress(OSError, UserError):
            remove_stale(path.parent)
            self._known = validate(dict[str, tuple[str, dict[str, str]]], read_json(path))

    def get(self, bag: Sequence[str], version: Sequence[Any]) -> Mapping[str, str] | None:
        """Return the sha256 of a bag's files by name, None when they are not known of this version."""
        known_version, sums = self._known.get(_digest(bag), ("", None))
        return sums if known_version == _digest(version) else None

    def put(self, bag: Sequence[str], version: Sequence[Any], sums: Mapping[str, str]) -> None:
        """Remember the sha256 of a bag's files, on disk from the next `save` on; now and then this saves."""
        name, entry = _digest(bag), (_digest(version), dict(sums))
        if self._known.get(name) != entry:
            self._known[name], self._is_saved = entry, False
        if time.monotonic() - self._saved_s > SAVE_PERIOD_S:
            self.save()

    def save(self) -> None:
        """Write what is known, where that is new."""
        if not self._is_saved:
            with contextlib.suppress(OSError, UserError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._path, self._known)
            self._saved_s, self._is_saved = time.monotonic(), True


def _digest(value: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
