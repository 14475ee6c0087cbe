"""The images of one camera by row, and decoded ones in a memory map."""

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

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
        self.map = map_images(path, (n_frames, *shape), "r")

    def take(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Copy the images of `rows` into `out`."""
        np.take(self.map, rows, axis=0, out=out, mode="clip")  # the default mode would copy twice to be able to raise


def map_images(path: Path, shape: tuple[int, ...], mode: Literal["r", "r+"]) -> npt.NDArray[np.uint8]:
    """Map the file as images (N, H, W, 3) uint8."""
    return np.memmap(path, np.uint8, mode, shape=shape)
