"""Decodes every stored image of a dataset, notes the damaged ones, and measures those that statistics cover."""

import concurrent.futures
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.command import UserError, one_line, progress
from common.lerobot.images import Image, captured_stderr, decode_image, decode_intact, image_file
from common.lerobot.metadata import Feature
from stage1_convert.check.findings import Findings
from stage1_convert.check.info import Declared
from stage1_convert.check.meta import Episodes, episode_of_rows
from stage1_convert.check.rows import Part, Rows
from stage1_convert.check.videos import check_videos
from stage1_convert.dataset.stats import HISTOGRAM, Histogram, histogram, sample_frames

BATCH_ROWS = 64


class ImageSample:
    """The sum of the histograms of an episode's sampled images (episodes, *HISTOGRAM), by feature.

    `is_sampled` (rows,) marks the rows whose images are part of it, `count` is the number of all images decoded.
    """

    def __init__(self, declared: Declared, episodes: Episodes, rows: int) -> None:
        self.sums = {
            key: np.zeros((len(episodes.places), *HISTOGRAM), np.int64) for key in declared.of_dtype("image", "video")
        }
        self.is_sampled = np.zeros(rows, np.bool_)
        for start, stop in episodes.bounds:
            if 0 <= start < stop <= rows:
                self.is_sampled[start + sample_frames(stop - start)] = True
        self.count = 0
        self._episode_of = episode_of_rows(episodes, rows)

    def add(self, key: str, row: int, image: Image) -> None:
        """Count an image of a row of the dataset; -1 for one that belongs to no row."""
        counts = histogram(image) if 0 <= row < len(self.is_sampled) and self.is_sampled[row] else None
        self.add_histogram(key, row, counts)

    def add_histogram(self, key: str, row: int, counts: Histogram | None) -> None:
        """Count an image whose histogram is known, None when it is not sampled."""
        self.count += 1
        if counts is not None:
            self.sums[key][self._episode_of[row]] += counts


def check_images(root: Path, declared: Declared, rows: Rows, episodes: Episodes, findings: Findings) -> ImageSample:
    """Decode every image and every video frame of the dataset."""
    sample = ImageSample(declared, episodes, rows.parts[-1].stop)
    stored = declared.of_dtype("image")
    if stored:
        for part in progress(rows.parts, len(rows.parts), "check images", "file"):
            for key, feature in stored.items():
                _check_images(root, part, key, feature, sample, findings)
    for key, feature in declared.of_dtype("video").items():
        check_videos(root, key, feature, declared.fps, episodes, sample.add, findings)
    return sample


def _check_images(root: Path, part: Part, key: str, feature: Feature, sample: ImageSample, findings: Findings) -> None:
    row = 0
    try:
        with pq.ParquetFile(part.path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=[key]):
                cells = [_file(root, cell) for cell in batch.column(0).to_pylist()]
                measured = sample.is_sampled[part.start + row : part.start + row + len(cells)].tolist()
                for cell, (fault, counts) in zip(cells, _look(cells, measured, feature.shape), strict=True):
                    if fault:
                        findings.add(part.path, f"{key}: {cell if isinstance(cell, str) else fault}", row)
                    else:
                        sample.add_histogram(key, part.start + row, counts)
                    row += 1
    except (pa.ArrowException, OSError) as error:
        findings.add(part.path, f"{key} cannot be read: {one_line(error)}", row)


def _file(root: Path, cell: dict[str, Any] | None) -> bytes | str:
    """Return the stored file of an image, or why there is none."""
    try:
        return image_file(root, cell)
    except UserError as error:
        return str(error)


Look = tuple[str | None, Histogram | None]


def _look(cells: Sequence[bytes | str], measured: Sequence[bool], shape: tuple[int, ...]) -> list[Look]:
    """Return each image's fault, or its histogram if it is measured.

    libjpeg and libpng report damage on the error stream only, without a name: which image it was is looked up when there
    is some.
    """
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool, captured_stderr() as printed:
        looks = list(pool.map(lambda cell, is_measured: _decode(cell, is_measured, shape), cells, measured))
    if not printed():
        return looks
    return [look if look[0] else (_complaint(cell), look[1]) for cell, look in zip(cells, looks, strict=True)]


def _decode(cell: bytes | str, is_measured: bool, shape: tuple[int, ...]) -> Look:
    try:
        image = decode_image(cell if isinstance(cell, bytes) else b"")
    except (UserError, cv2.error) as error:
        return one_line(error), None
    if image.shape[:2] != shape[:2]:
        return "found an image of {}x{}, expected {}x{}".format(*image.shape[:2], *shape[:2]), None
    return None, histogram(image) if is_measured else None


def _complaint(cell: bytes | str) -> str | None:
    try:
        decode_intact(cell if isinstance(cell, bytes) else b"")
    except UserError as error:
        return one_line(error)
    return None
