"""Decompresses messages, chunks and files, to no more bytes than are declared and plausible."""

import shutil
import struct
from pathlib import Path

import pyarrow as pa

from common.cli.command import UserError
from stage1_convert.bags.storage import LEAVE_OUT

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
PLAIN_BYTES = 64 << 20  # any ratio is plausible up to this size
MAX_RATIO = 100  # beyond it: 32 KB of zstd can expand to 1 GiB
MAX_FILE_RATIO = 1000  # of whole files, which are decompressed to disk
MAX_BYTES = 1 << 30
STEP_BYTES = 1 << 20
DAMAGE = f"they are damaged; {LEAVE_OUT}"
UNZIP = "unpack it with `zstd -d` if its size is right and there is room, or leave it out by data.exclude"


def unpack(data: bytes, codec: str, size: int | None = None) -> bytes:
    """Decompress `data`, one frame of zstd, lz4 or bz2; `size` is how many bytes it should become, where that is known.

    Raises UserError, before memory is allocated, when the declared size is implausible, and when the result has another
    size.
    """
    if codec == "zstd" and size is None:
        size = zstd_content_size(data)
    limit = size if size is not None else max(PLAIN_BYTES, MAX_RATIO * len(data))
    check_size(limit if size is not None else 0, len(data))
    with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
        pieces, count = [], 0
        step = limit + 1 if size is not None and size <= PLAIN_BYTES else STEP_BYTES
        while count <= limit and (piece := stream.read(min(limit + 1 - count, step))):
            pieces.append(piece)
            count += len(piece)
    if count > limit or (size is not None and count != size):
        more = "more than " if count > limit else ""
        raise UserError(
            f"{len(data)} bytes of {codec} unpack to {more}{min(count, limit)} bytes, not {size or limit}: {DAMAGE}"
        )
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def unpack_file(packed: Path, target: Path) -> None:
    """Decompress a .zstd file; raises UserError when it expands implausibly or to more than the disk has room for."""
    packed_bytes = packed.stat().st_size
    with packed.open("rb") as file:
        declared = zstd_content_size(file.read(18))
    limit = max(PLAIN_BYTES, MAX_FILE_RATIO * packed_bytes)
    free = shutil.disk_usage(target.parent).free
    if declared is not None and declared > min(limit, free):
        raise UserError(
            f"{packed.name} ({packed_bytes} bytes) claims to unpack to {declared} bytes, and {free} are free; {UNZIP}"
        )
    written = 0
    with pa.CompressedInputStream(pa.OSFile(str(packed)), "zstd") as stream, target.open("wb") as out:
        while piece := stream.read(STEP_BYTES):
            written += out.write(piece)
            if written > limit:
                raise UserError(f"{packed.name} ({packed_bytes} bytes) unpacks to more than {limit} bytes; {UNZIP}")


def check_size(size: int, packed_bytes: int) -> None:
    """Raise UserError for a declared size that no recording would reach from so few bytes."""
    if size > MAX_BYTES or (size > PLAIN_BYTES and size > MAX_RATIO * packed_bytes):
        raise UserError(f"{packed_bytes} compressed bytes claim to unpack to {size} bytes: {DAMAGE}")


def zstd_content_size(data: bytes) -> int | None:
    """Return the size that the header of a zstd frame declares, None when it declares none (RFC 8878, 3.1.1.1)."""
    if data[:4] != ZSTD_MAGIC or len(data) < 6:
        return None
    descriptor = data[4]
    flag, single_segment = descriptor >> 6, descriptor >> 5 & 1
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    code = {0: "<B" if single_segment else "", 1: "<H", 2: "<I", 3: "<Q"}[flag]
    if not code or len(data) < start + struct.calcsize(code):
        return None
    (size,) = struct.unpack_from(code, data, start)
    return int(size) + (256 if flag == 1 else 0)
