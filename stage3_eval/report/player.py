"""The player of an episode: a slider through its frames, with small images and the values of all joints at each.

The script of the page shows them; without it the films and the curves remain.

Letters in array names: T frames of the episode, A action dimensions.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.lerobot.dataset import Dataset
from common.lerobot.frames import read_frames
from common.lerobot.metadata import Episode
from common.report.charts import MAX_POINTS
from common.report.images import PageImage, film_frames, sheet
from stage3_eval.metrics.errors import Floats

# Small images of the whole page, and of a camera in one episode at most and at least; every worst moment adds its own.
PAGE_IMAGES, MOST_IMAGES, LEAST_IMAGES = 288, 60, 8
IMAGE_PX = 192


class Player(NamedTuple):
    """For each camera the sheet with its images side by side, and what the script needs, as JSON."""

    sheets: dict[str, PageImage]
    n_images: int
    n_times: int
    json: str


def images_per_episode(n_episodes: int, n_cameras: int) -> int:
    """Return how many images of a camera are shown of each episode."""
    return min(MOST_IMAGES, max(LEAST_IMAGES, PAGE_IMAGES // max(1, n_episodes * n_cameras)))


def view_player(
    dataset: Dataset,
    episode: Episode,
    cameras: Sequence[str],
    n_images: int,
    moments: Collection[int],
    values: Mapping[str, Sequence[Floats]],
    units: Sequence[str],
) -> Player:
    """Return the player of an episode, with images of evenly spaced frames and of `moments`.

    `values` of each joint (T,) are named recorded and predicted, in its unit of `units`; it holds those at up to MAX_POINTS
    times and at the images.
    """
    frames = sorted({*film_frames(episode.length, n_images), *moments})
    times = sorted({*film_frames(episode.length, MAX_POINTS), *frames})
    shown = {name: [_rounded(column[times]) for column in columns] for name, columns in values.items()}
    tree = {"times": times, "images": frames, "last": episode.length - 1, "fps": dataset.fps, "units": units, **shown}
    sheets = {camera: sheet(read_frames(dataset, episode, camera, frames), IMAGE_PX) for camera in cameras}
    return Player(sheets, len(frames), len(times), json.dumps(tree, separators=(",", ":")))


def _rounded(column: Floats) -> list[float]:
    """Return the values with as many decimals as give the largest of them four digits."""
    largest = float(np.abs(column).max()) or 1.0
    rounded: list[float] = np.round(column.astype(np.float64), 3 - math.floor(math.log10(largest))).tolist()
    return rounded
