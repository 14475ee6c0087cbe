"""JPEG, PNG or video bytes in, RGB images (height, width, 3) uint8 out."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from common.cli.command import UserError, one_line

Image = npt.NDArray[np.uint8]

MAX_PIXELS = 1 << 24  # a small file can claim any size: it is compared with this before memory is taken


def decode_image(data: bytes) -> Image:
    """Decode a JPEG or PNG file to RGB (height, width, 3) uint8; raises UserError when it is damaged."""
    way = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # rows as they are stored, like every other reader
    image = cv2.imdecode(np.frombuffer(data, np.uint8), way) if data else None
    if image is None:
        raise UserError(f"the image ({len(data)} bytes) does not decode")
    return image  # type: ignore[return-value]


def resize(image: Image, size: tuple[int, int] | None) -> Image:
    """Return the image in (height, width) `size`, by areas where it shrinks; None leaves it as it is."""
    if size is None or image.shape[:2] == size:
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size[1], size[0]), interpolation=way)  # type: ignore[return-value]


def decode_video(path: Path, start_s: float, count: int, fps: int) -> Iterator[Image]:
    """Yield `count` frames of a video from time `start_s` on, in order, RGB (height, width, 3) uint8.

    Frame i is the one shown at start_s + i / fps; a frame further off than 1e-4 s (LeRobot's tolerance) is an error.
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
