"""Decodes every image of a dataset as a training does, finds those whose damage decoders conceal, and measures a sample."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np

from common.cli.command import UserError, progress
from common.lerobot.dataset import Dataset
from common.lerobot.images import captured_stderr, decode_image, decode_intact, image_file
from common.lerobot.metadata import Episode, image_key
from stage1_convert.check.findings import Finding
from stage1_convert.dataset.stats import HISTOGRAM, Histogram, Stats, histogram, image_stats, sample_frames

BATCH_ROWS = 64
Cell = dict[str, Any] | None


class _Sum:
    """The sum of the histograms of an episode's sampled images, and the number of all of them."""

    def __init__(self, episode: Episode) -> None:
        self.sampled = set(sample_frames(episode.length).tolist())
        self.counts, self.images = np.zeros(HISTOGRAM, np.int64), 0

    def stats(self) -> Stats | None:
        return image_stats(self.counts, len(self.sampled)) if self.counts.any() else None


class Measured(NamedTuple):
    """Findings about the images, how many were read, and their statistics by feature and episode."""

    findings: list[Finding]
    images: int
    stats: dict[str, list[Stats | None]]


def measure_images(dataset: Dataset) -> Measured:
    """Decode every image, and report one finding for each camera and episode that has damaged ones."""
    findings, images = list[Finding](), 0
    stats: dict[str, list[Stats | None]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for camera, (_, _, channels) in dataset.cameras.items():
            key = image_key(camera)
            if channels != 3:
                continue  # neither OpenCV nor the training reads them
            stats[key] = []
            for episode in progress(dataset.episodes, len(dataset.episodes), f"check {camera}", "episode"):
                found = _Sum(episode)
                is_video = dataset.features[key].dtype == "video"
                faults = (
                    _video(dataset, episode, camera, found)
                    if is_video
                    else _stored(dataset, episode, camera, found, pool)
                )
                findings += _first(dataset, faults)
                images += found.images
                stats[key].append(found.stats())
    return Measured(findings, images, stats)


def _first(dataset: Dataset, faults: Iterator[tuple[str, bool]]) -> list[Finding]:
    """Return one finding about the images of an episode: the first that a training refuses, else the first damaged one."""
    found = sorted(faults, key=lambda fault: not fault[1])
    more = f" (and {len(found) - 1} more images)" if len(found) > 1 else ""
    return [Finding("fault", f"{text}{more}".replace(f"{dataset.root}: ", ""), refused) for text, refused in found[:1]]


def _video(dataset: Dataset, episode: Episode, camera: str, found: _Sum) -> Iterator[tuple[str, bool]]:
    try:
        for frame, image in enumerate(dataset.images(episode, camera)):
            found.images += 1
            if frame in found.sampled:
                found.counts += histogram(image)
    except UserError as error:
        yield str(error), True


def _stored(
    dataset: Dataset, episode: Episode, camera: str, found: _Sum, pool: ThreadPoolExecutor
) -> Iterator[tuple[str, bool]]:
    """Yield what is wrong with each damaged image, and whether a training refuses it.

    libjpeg and libpng report damage on the error stream only, without a name: which image it was is looked up when there
    is some.
    """

    def measure(frame: int, cell: Cell) -> UserError | Histogram | None:
        try:
            image = dataset.resized(decode_image(image_file(dataset.root, cell)), camera)
        except UserError as error:
            return error
        return histogram(image) if frame in found.sampled else None

    cells, frame = dataset.image_cells(episode, camera), 0
    try:
        while batch := list(islice(cells, BATCH_ROWS)):
            with captured_stderr() as printed:
                results = list(pool.map(measure, count(frame), batch))
                is_damaged = bool(printed())
            for cell, result in zip(batch, results, strict=True):
                concealed = _concealed(dataset, cell) if is_damaged else None
                if isinstance(result, UserError):
                    yield str(dataset.image_fault(episode, camera, frame, result)), True
                elif concealed:
                    yield str(dataset.image_fault(episode, camera, frame, concealed)), False
                elif result is not None:
                    found.counts += result
                frame += 1
    except UserError as error:
        yield str(error), True
    found.images = frame
    if frame != episode.length:
        yield f"{dataset.root}: camera {camera}, episode {episode.number}: {frame} images, {episode.length} rows", True


def _concealed(dataset: Dataset, cell: Cell) -> UserError | None:
    try:
        decode_intact(image_file(dataset.root, cell))
    except UserError as error:
        return error
    return None
