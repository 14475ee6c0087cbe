"""Single images of a camera: from a memory map of decoded ones, or read from the dataset and decoded at every use."""

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.command import UserError, one_line
from common.lerobot.images import Image, decode_image, image_file
from common.lerobot.metadata import Episode, image_key

if TYPE_CHECKING:  # batches need no pydantic
    from common.lerobot.dataset import Dataset

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
    """Images that are read and decoded at every use."""

    def __init__(self, dataset: "Dataset", camera: str) -> None:
        self.shape = dataset.cameras[camera]
        self._dataset, self._camera = dataset, camera
        self._starts = [episode.start for episode in dataset.episodes]

    def take(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Decode the images of `rows` into `out`; raises UserError naming episode and frame of a damaged one."""
        for i, row in enumerate(rows.tolist()):
            episode = self._dataset.episodes[bisect.bisect_right(self._starts, row) - 1]
            (out[i],) = read_frames(self._dataset, episode, self._camera, [row - episode.start])


def read_frames(dataset: "Dataset", episode: Episode, camera: str, frames: Sequence[int]) -> Iterator[Image]:
    """Yield a few frames of an episode, in rising order, without decoding those in between.

    Raises UserError naming camera, episode and frame when an image is damaged or missing.
    """
    is_video = dataset.features[image_key(camera)].dtype == "video"
    images = (_from_video if is_video else _from_rows)(dataset, episode, camera, frames)
    for frame in frames:
        try:
            image = dataset.resized(next(images), camera)
        except UserError as error:
            raise dataset.image_fault(episode, camera, frame, error) from error
        yield image


def _from_rows(dataset: "Dataset", episode: Episode, camera: str, frames: Sequence[int]) -> Iterator[Image]:
    """Read only the row groups in which the frames are stored."""
    path, key = dataset.rows_path(episode), dataset.stored[image_key(camera)]
    try:
        with pq.ParquetFile(path) as file:
            first = episode.start - int(file.read_row_group(0, [dataset.stored["index"]]).column(0)[0].as_py())
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(sizes)])
            held, column = -1, None
            for row in (first + frame for frame in frames):
                if not 0 <= row < starts[-1]:
                    raise UserError("the file does not hold it")
                group = int(np.searchsorted(starts, row, side="right")) - 1
                if group != held:
                    held, column = group, file.read_row_group(group, [key]).column(0)
                assert column is not None
                yield decode_image(image_file(dataset.root, column[row - int(starts[group])].as_py()))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error


def _from_video(dataset: "Dataset", episode: Episode, camera: str, frames: Sequence[int]) -> Iterator[Image]:
    for frame in frames:
        yield dataset.video_frame(episode, camera, frame)
