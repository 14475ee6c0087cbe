"""Decoding of JPEG, PNG and video to RGB images (height, width, 3) uint8, and resizing."""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from common.cli.command import UserError, one_line
from common.lerobot import jpeg

Image = npt.NDArray[np.uint8]

MAX_PIXELS = 1 << 24  # a small file can declare any size: it is compared with this before memory is allocated
RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # other readers do not rotate images either
# libjpeg and libpng conceal damage and only print a line about it; a padded color profile is no damage.
DAMAGE = re.compile(rb"Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|Invalid SOS|libpng error")
# Some cameras put a few extra bytes between the last block of an image, or of a restart interval, and the next marker, which
# costs no pixel. More bytes than that are left over from a damaged block. libjpeg prints only its first warning: none can
# follow the one about the end marker (d9), and after one about a restart marker (d0 to d7) the intervals are decoded alone.
EXTRA_BYTES = re.compile(rb"(\d+) extraneous bytes before marker 0x(d[0-79])")
MAX_EXTRA_BYTES = 16


def decode_image(data: bytes, flags: int = RGB) -> Image:
    """Decode a JPEG or PNG file to RGB (height, width, 3) uint8, or by other flags of cv2.imdecode.

    Raises UserError when it does not decode.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise UserError(f"the image does not decode: {one_line(error)}") from error
    if image is None:
        raise UserError(f"the image ({len(data)} bytes) does not decode")
    return image  # type: ignore[return-value]


def image_file(root: Path, cell: dict[str, Any] | None) -> bytes:
    """Return the JPEG or PNG file of a cell {bytes, path} of the dataset at `root`.

    Without bytes it is read from the path, which is relative to the dataset. Raises UserError where there is none.
    """
    if cell is None:
        raise UserError("the image is null")
    if cell.get("bytes") is not None:
        return bytes(cell["bytes"])
    name = str(cell.get("path") or "")
    if not name:
        raise UserError("the image has neither bytes nor a path")
    path: Path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise UserError(f"the image has the path {name!r}, which is outside of the dataset, and no bytes")
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"the image has no bytes, and its file {name!r} cannot be read: {one_line(error)}") from error


def decode_intact(data: bytes, flags: int = RGB) -> Image:
    """Decode as decode_image does; raises UserError also for damage that the decoder conceals."""
    return decode_without_extra(data, flags)[0]


def decode_without_extra(data: bytes, flags: int = RGB) -> tuple[Image, bytes | None]:
    """Decode as decode_intact does, and return the file without bytes too many before its markers as well.

    Other decoders print a line about each file with such bytes. None stands for one with some before restart markers: where
    they begin is not known.
    """
    image, marker, extra = _decode_noting_extra(data, flags)
    if extra and marker != jpeg.END[1:]:
        for file in jpeg.restart_intervals(data):
            _decode_noting_extra(file, flags)
        return image, None
    if not extra:
        return image, data
    stop = jpeg.end_of(data) - len(jpeg.END)
    return image, data[: stop - extra] + data[stop:]


def _decode_noting_extra(data: bytes, flags: int) -> tuple[Image, bytes, int]:
    """Return the image, the first marker with bytes too many before it, and their number, at most MAX_EXTRA_BYTES."""
    with captured_stderr() as printed:
        image = decode_image(data, flags)
    damage = next((line for line in printed().splitlines() if DAMAGE.search(line)), None)
    extra = EXTRA_BYTES.search(damage or b"")
    if damage and not (extra and int(extra[1]) <= MAX_EXTRA_BYTES):
        raise UserError(f"the image is damaged: {damage.decode(errors='replace').strip()}")
    return (image, bytes.fromhex(extra[2].decode()), int(extra[1])) if extra else (image, b"", 0)


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], bytes]]:
    """Keep what this process, C libraries included, prints on file descriptor 2 in the block, and yield its reader."""
    handle = _capture_file(os.getpid())
    if os.lseek(handle, 0, os.SEEK_END):
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
    stderr = os.dup(2)
    os.dup2(handle, 2)
    try:
        yield lambda: os.pread(handle, os.lseek(handle, 0, os.SEEK_END), 0)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@functools.cache  # one file in memory per process: opening one for every image would take as long as the capture itself
def _capture_file(_process: int) -> int:
    return os.memfd_create("stderr")


def resize(image: Image, size: tuple[int, int] | None) -> Image:
    """Return the image resized to `size` (height, width); None leaves it as it is."""
    if size is None or image.shape[:2] == size:
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size[1], size[0]), interpolation=interpolation)  # type: ignore[return-value]


def decode_video(path: Path, start_s: float, count: int, fps: int) -> Iterator[Image]:
    """Yield `count` frames of a video in order, starting at `start_s`, as RGB (height, width, 3) uint8.

    Frame i is the one at start_s + i / fps. Raises UserError when it is off by more than 1e-4 s, LeRobot's tolerance. A video
    that ends early yields fewer frames.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            container.seek(int(start_s / (stream.time_base or 1)), stream=stream)  # to the key frame at or before it
            done = 0
            for frame in container.decode(stream):
                if frame.time < start_s - 1e-4:
                    continue
                if done == count:
                    return
                if abs(frame.time - (start_s + done / fps)) > 1e-4:
                    raise UserError(
                        f"{path}: the frame at {frame.time:.4f} s should be at {start_s + done / fps:.4f} s"
                    )
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                done += 1
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} cannot be decoded: {one_line(error)}") from error
