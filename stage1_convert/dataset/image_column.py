"""One camera's shots over one episode in; its column of the rows, or its video, and what its images are like out."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from common.cli.command import UserError
from common.lerobot.images import Image
from stage1_convert.config import DataConfig
from stage1_convert.dataset import stats
from stage1_convert.dataset.video_file import VideoFile
from stage1_convert.dataset.writer import Tally

SUFFIX = {"jpeg": "jpg", "png": "png"}


class StoredImage(NamedTuple):
    """An image to store: its file, or its pixels where it becomes a frame of a video, and its stats.tally, None where it
    is trusted unseen. Frames wait in batches: pixels would be large.

    A tally is of what the file decodes to, and of the pixels before they are compressed where that is done here: to
    decode each of them again would take longer than to compress it.

    `repeated` tells that the message before it showed the same image, to the byte.
    """

    data: bytes
    image: Image | None
    tally: npt.NDArray[np.int64] | None
    repeated: bool


class ImageColumnWriter:
    """Takes the frames' shots in order; `repeated` counts those that show another message with the same image, and
    `waiting_bytes` is what the next column will hold.
    """

    def __init__(self, video: Path, data: DataConfig) -> None:
        self._path, self._data = video, data
        self._video: VideoFile | None = None
        self._waiting: list[bytes] = []
        self._taken = self._decoded = self.repeated = self.waiting_bytes = 0
        self._sum = np.zeros(stats.TALLY, np.int64)
        self._last: StoredImage | None = None

    def add(self, shot: StoredImage) -> None:
        """Take the next frame's image."""
        if shot.tally is not None:
            self._decoded += 1
            self._sum += shot.tally
        if shot is not self._last and self._last is not None:
            self.repeated += shot.repeated
        self._last = shot
        self._waiting.append(shot.data)
        self.waiting_bytes += len(shot.data)
        if shot.image is not None:
            height, width, _ = shot.image.shape
            self._video = self._video or VideoFile(self._path, (height, width), self._data.fps)
            self._video.add(shot.image)

    def column(self, count: int) -> pa.StructArray | None:
        """Return the images of the last `count` frames as the rows hold them, None when they are in a video.

        Raises UserError when there are fewer: the bag changed between its two readings.
        """
        files, first = self._waiting, self._taken
        if len(files) < count:
            raise UserError("the second reading gave fewer images than the first: it is damaged or being written to")
        self._waiting, self._taken, self.waiting_bytes = [], first + count, 0
        if self._video is not None:
            return None
        paths = pa.array([f"frame-{first + row:06d}.{SUFFIX[self._data.storage]}" for row in range(count)])
        return pa.StructArray.from_arrays([_binary(files), paths], ["bytes", "path"])

    def close(self) -> Tally:
        """Finish the video, if there is one, and return the sum of the stored images' tallies and their number."""
        return self._video.close() if self._video is not None else (self._sum, self._decoded)


def _binary(files: list[bytes]) -> pa.BinaryArray:
    """Return files as an Arrow array, copied once."""
    offsets = np.cumsum([0, *map(len, files)]).astype(np.int32)  # a batch is far from 2 GiB
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(files), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(files))]
    )
