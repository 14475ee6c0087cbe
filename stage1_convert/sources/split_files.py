"""Recognizes storage files without metadata.yaml as the parts of one recording.

A recorder that splits a recording names the parts NAME_0, NAME_1, ..., each beginning where the one before it ends, and
lists them in metadata.yaml when it ends; a recorder that is killed writes no metadata.yaml. The files are read by another
process, because a damaged file that crashes its reader must not end the listing.
"""

import contextlib
import itertools
import re
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from common.cli.command import UserError
from common.storage.worker import map_isolated
from stage1_convert.bags.compression import unpack_file
from stage1_convert.bags.mcap import Mcap
from stage1_convert.bags.sqlite import Database
from stage1_convert.bags.storage import limits_for

PART = re.compile(r"(?P<stem>.+)_(?P<number>\d+)(?P<suffix>\.(mcap|db3)(\.zstd)?)")
# From the end of a part to the beginning of the next. Recordings that were numbered by hand are further apart; messages
# that wait in a recorder's cache may be a little earlier.
MAX_PAUSE_NS, MAX_OVERLAP_NS = 1_000_000_000, 100_000_000


def is_one_recording(files: Sequence[Path]) -> bool:
    """Return whether these files are the parts of one recording, by their names and by the times of their messages."""
    found = [match for match in (PART.fullmatch(file.name) for file in files) if match]
    parts = sorted((int(match["number"]), file) for match, file in zip(found, files, strict=False))
    numbers = [number for number, _ in parts]
    alike = len(found) == len(files) > 1 and len({(match["stem"], match["suffix"]) for match in found}) == 1
    if not alike or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return False
    paths = [file for _, file in parts]
    limits = limits_for(sum(file.stat().st_size for file in paths))
    with contextlib.closing(map_isolated(_are_consecutive, [paths], 1, lambda _: limits)) as answers:
        return next(answers) is True  # otherwise each is a bag by itself, whose conversion says what is wrong with it


def _are_consecutive(parts: Sequence[Path]) -> bool:
    """Return whether the messages of every part begin where those of the part before it end."""
    try:
        spans_ns = (_span_ns(file) for file in parts)  # the first two tell most numbered recordings apart
        pauses_ns = (start_ns - end_ns for (_, end_ns), (start_ns, _) in itertools.pairwise(spans_ns))
        return all(-MAX_OVERLAP_NS <= pause_ns <= MAX_PAUSE_NS for pause_ns in pauses_ns)
    except (UserError, OSError, ValueError, sqlite3.Error, pa.ArrowException):
        return False


def _span_ns(file: Path) -> tuple[int, int]:
    """Return the receive times of a storage file's first and last message."""
    with tempfile.TemporaryDirectory() as scratch:
        if file.suffix == ".zstd":
            packed, file = file, Path(scratch, file.stem)
            unpack_file(packed, file)
        storage = Mcap(file, []) if file.suffix == ".mcap" else Database(file, Path(scratch), [])
        storage.close()
        return storage.start_ns, storage.end_ns
