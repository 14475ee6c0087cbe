"""One camera's images over one episode: a column of the rows, or a video, and their statistics."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from common.cli.command import UserError
from common.lerobot.images import Image
from stage1_convert.config import DataConfig
from stage1_convert.dataset.stats import HISTOGRAM, Histogram, Stats, image_stats, sample_frames
from stage1_convert.dataset.video_file import VideoFile

SUFFIX = {"jpeg": "jpg", "png": "png"}


class StoredImage(NamedTuple):
    """An image as the dataset stores it: its file, or its pixels where it becomes a frame of a video.

    `counts` is its histogram, of the pixels before they are compressed here, None where no frame that shows the image is
    measured. `identical` tells that the message before it showed the same image, to the byte.
    """

    data: bytes
    image: Image | None
    counts: Histogram | None
    identical: bool


class ImageColumnWriter:
    """Takes the images of an episode's frames in order.

    `identical` counts the frames that show another message with the same image; `waiting_bytes` is the size of the next
    column.
    """

    def __init__(self, video: Path, data: DataConfig, frames: int) -> None:
        self._path, self._data = video, data
        self._video: VideoFile | None = None
        self._waiting: list[bytes] = []
        self._frames = self.identical = self.waiting_bytes = 0
        self._sampled = set(sample_frames(frames).tolist())
        self._counts = np.zeros(HISTOGRAM, np.int64)
        self._last: StoredImage | None = None

    def add(self, image: StoredImage) -> None:
        """Append the next frame's image."""
        if self._frames in self._sampled:
            assert image.counts is not None
            self._counts += image.counts
        if image is not self._last and self._last is not None:
            self.identical += image.identical
        self._last = image
        self._frames += 1
        self._waiting.append(image.data)
        self.waiting_bytes += len(image.data)
        if image.image is not None:
            height, width, _ = image.image.shape
            self._video = self._video or VideoFile(self._path, (height, width), self._data.fps)
            self._video.add(image.image)

    def column(self, count: int) -> pa.StructArray | None:
        """Return the images of the last `count` frames as a column of the rows, None when they are in a video.

        Raises UserError when there are fewer: the bag changed between its two readings.
        """
        files = self._waiting
        if len(files) < count:
            raise UserError(
                "the second reading gave fewer images than the first: it is damaged or being written to; convert it again"
            )
        self._waiting, self.waiting_bytes = [], 0
        if self._video is not None:
            return None
        names = [
            f"frame-{frame:06d}.{SUFFIX[self._data.storage]}" for frame in range(self._frames - count, self._frames)
        ]
        return pa.StructArray.from_arrays([_binary(files), pa.array(names)], ["bytes", "path"])

    def close(self) -> Stats:
        """Finish the video, if there is one, and return the statistics of the episode's images."""
        if self._video is not None:
            self._video.close()
        return image_stats(self._counts, len(self._sampled))


def _binary(files: list[bytes]) -> pa.BinaryArray:
    """Return files as an Arrow array, copied once."""
    offsets = np.cumsum([0, *map(len, files)]).astype(np.int32)  # a batch is far from 2 GiB
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(files), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(files))]
    )
