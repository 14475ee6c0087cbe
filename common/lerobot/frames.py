"""The images of one camera by row: decoded ones in a memory map, or encoded ones that are decoded at every use."""

import bisect
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.lerobot.images import Image, decode_image, image_file

Rows = npt.NDArray[np.int64]


class Frames(Protocol):
    """The images of one camera, RGB (height, width, 3) uint8, by row of the dataset."""

    shape: tuple[int, int, int]

    def take(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Put the images of `rows` into `out`, (len(rows), height, width, 3)."""


class MappedFrames:
    """Decoded images in a memory map."""

    def __init__(self, path: Path, n_frames: int, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.map: npt.NDArray[np.uint8] = np.memmap(path, np.uint8, "r", shape=(n_frames, *shape))

    def take(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Copy the images of `rows` into `out`."""
        np.take(self.map, rows, axis=0, out=out, mode="clip")  # the default mode would copy twice to be able to raise


class DecodedFrames:
    """Images that are decoded at every use, from memory-mapped cells {bytes, path} or from the dataset's videos."""

    def __init__(self, dataset: Dataset, camera: str, cells: Path | None) -> None:
        """`cells` is an Arrow file with a cell for every row; None: they are in videos."""
        self.shape = dataset.cameras[camera]
        self._dataset, self._camera = dataset, camera
        self._cells = pa.ipc.open_file(pa.memory_map(str(cells))).read_all().column(0) if cells else None
        self._starts = [episode.start for episode in dataset.episodes]

    def take(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Decode the images of `rows`; raises UserError naming episode and frame of a damaged one."""
        for i, row in enumerate(rows.tolist()):
            out[i] = self._image(row)

    def _image(self, row: int) -> Image:
        dataset, camera = self._dataset, self._camera
        episode = dataset.episodes[bisect.bisect_right(self._starts, row) - 1]
        frame = row - episode.start
        try:
            if self._cells is not None:
                image = decode_image(image_file(dataset.root, self._cells[row].as_py()))
            else:
                image = dataset.video_frame(episode, camera, frame)
            return dataset.resized(image, camera)
        except UserError as error:
            raise dataset.image_fault(episode, camera, frame, error) from error
