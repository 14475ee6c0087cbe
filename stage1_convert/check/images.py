"""The stored images of a dataset in; how often each value occurs in every episode's, and their faults, out."""

import concurrent.futures
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.command import UserError, one_line, progress
from common.lerobot.dataset import Feature
from common.lerobot.images import Image, captured_stderr, decode_image, decode_intact
from stage1_convert.check.faults import Findings
from stage1_convert.check.info import Declared
from stage1_convert.check.meta import Episodes, episode_of_rows
from stage1_convert.check.rows import Part, Rows
from stage1_convert.check.videos import check_videos
from stage1_convert.dataset.stats import TALLY, tally

Tally = npt.NDArray[np.int64]
BATCH_ROWS = 64


class Images:
    """Counts the values of every image by feature and episode; `count` is how many were looked at."""

    def __init__(self, declared: Declared, n_episodes: int) -> None:
        features = declared.of("image", "video")
        self.tallies = {key: np.zeros((n_episodes, *TALLY), np.int64) for key in features}
        self.count = 0

    def add(self, key: str, episode: int, found: Tally) -> None:
        """Count one image of an episode; -1 belongs to none."""
        self.count += 1
        if episode >= 0:
            self.tallies[key][episode] += found


def check_images(root: Path, declared: Declared, rows: Rows, episodes: Episodes, faults: Findings) -> Images:
    """Decode every image and every video frame of the dataset."""
    images = Images(declared, len(episodes.places))
    owner = episode_of_rows(episodes, rows.parts[-1].stop)
    stored = declared.of("image")
    if stored:
        for part in progress(rows.parts, len(rows.parts), "check images", "file"):
            for key, feature in stored.items():
                _check_images(part, key, feature, owner, images, faults)
    for key, feature in declared.of("video").items():
        check_videos(root, key, feature, declared.fps, episodes, images.add, faults)
    return images


def _check_images(
    part: Part, key: str, feature: Feature, owner: npt.NDArray[np.int64], images: Images, faults: Findings
) -> None:
    row = 0
    try:
        with pq.ParquetFile(part.path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=[f"{key}.bytes"]):
                cells = batch.column(0).field("bytes").to_pylist()
                for cell, (fault, found) in zip(cells, _look(cells, feature.shape), strict=True):
                    if fault:
                        faults.add(part.path, f"{key}: {fault}" if cell is not None else f"{key} has no bytes", row)
                    else:
                        images.add(key, int(owner[part.start + row]), found)
                    row += 1
    except (pa.ArrowException, OSError) as error:
        faults.add(part.path, f"{key} cannot be read: {one_line(error)}", row)


def _look(cells: Sequence[bytes | None], shape: tuple[int, ...]) -> list[tuple[str | None, Tally]]:
    """Return each image's fault, or how often its values occur; which image libjpeg complains about is looked up only
    when it does, because it prints no name.
    """
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool, captured_stderr() as printed:
        looks = list(pool.map(lambda cell: _decode(cell, shape), cells))
    if not printed():
        return looks
    return [look if look[0] else (_complaint(cell), look[1]) for cell, look in zip(cells, looks, strict=True)]


def _decode(cell: bytes | None, shape: tuple[int, ...]) -> tuple[str | None, Tally]:
    try:
        image = decode_image(cell or b"")
    except (UserError, cv2.error) as error:
        return one_line(error), np.zeros(TALLY, np.int64)
    return _size_fault(image, shape), tally(image)


def _size_fault(image: Image, shape: tuple[int, ...]) -> str | None:
    if image.shape[:2] == shape[:2]:
        return None
    return "found an image of {}x{}, expected {}x{}".format(*image.shape[:2], *shape[:2])


def _complaint(cell: bytes | None) -> str | None:
    try:
        decode_intact(cell or b"")
    except UserError as error:
        return one_line(error)
    return None
