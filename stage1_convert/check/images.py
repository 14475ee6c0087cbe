"""Decodes every image of a dataset as a training does, and finds those whose damage decoders conceal."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

from common.cli.command import UserError, progress
from common.lerobot.dataset import Dataset
from common.lerobot.images import captured_stderr, decode_image, decode_intact, image_file
from common.lerobot.metadata import Episode, image_key
from stage1_convert.check.findings import Finding

BATCH_ROWS = 64
Cell = dict[str, Any] | None


class Fault(NamedTuple):
    """What is wrong with an image, and whether a training refuses it."""

    text: str
    is_refused: bool


def check_images(dataset: Dataset) -> Iterator[Finding]:
    """Decode every image, and yield one finding for each camera and episode that has damaged ones."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for camera in readable_cameras(dataset):
            is_video = dataset.features[image_key(camera)].dtype == "video"
            for episode in progress(dataset.episodes, len(dataset.episodes), f"check {camera}", "episode"):
                faults = _video(dataset, episode, camera) if is_video else _stored(dataset, episode, camera, pool)
                found = sorted(faults, key=lambda fault: not fault.is_refused)
                more = f" (and {len(found) - 1} more images)" if len(found) > 1 else ""
                for text, is_refused in found[:1]:
                    yield Finding("fault", f"{text}{more}".replace(f"{dataset.root}: ", ""), is_refused)


def readable_cameras(dataset: Dataset) -> list[str]:
    """Return the cameras whose images OpenCV and the training read."""
    return [camera for camera, (_, _, channels) in dataset.cameras.items() if channels == 3]


def _video(dataset: Dataset, episode: Episode, camera: str) -> Iterator[Fault]:
    try:
        for _ in dataset.images(episode, camera):
            pass
    except UserError as error:
        yield Fault(str(error), True)


def _stored(dataset: Dataset, episode: Episode, camera: str, pool: ThreadPoolExecutor) -> Iterator[Fault]:
    """Yield what is wrong with each damaged image.

    libjpeg and libpng report damage on the error stream only, without a name: which image it was is looked up when there
    is some.
    """

    def decode(cell: Cell) -> UserError | None:
        try:
            dataset.resized(decode_image(image_file(dataset.root, cell)), camera)
        except UserError as error:
            return error
        return None

    cells, frame = dataset.image_cells(episode, camera), 0
    try:
        while batch := list(islice(cells, BATCH_ROWS)):
            with captured_stderr() as printed:
                errors = list(pool.map(decode, batch))
                is_damaged = bool(printed())
            for cell, error in zip(batch, errors, strict=True):
                concealed = _concealed(dataset, cell) if is_damaged and error is None else None
                if fault := error or concealed:
                    yield Fault(str(dataset.image_fault(episode, camera, frame, fault)), error is not None)
                frame += 1
    except UserError as error:
        yield Fault(str(error), True)
    if frame != episode.length:
        words = f"{dataset.root}: camera {camera}, episode {episode.number}: {frame} images, {episode.length} rows"
        yield Fault(words, True)


def _concealed(dataset: Dataset, cell: Cell) -> UserError | None:
    try:
        decode_intact(image_file(dataset.root, cell))
    except UserError as error:
        return error
    return None
