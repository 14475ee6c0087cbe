"""Columns and images in; the exact statistics a LeRobot dataset carries out.

Quantiles are those of numpy's default method (linear between neighbors). LeRobot 0.6 estimates them from histograms
and samples the images, so its figures differ a little.
"""

import threading
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
WHOLE_ROWS, QUANTILE_ROWS = 120, 16  # images of more rows than that give about so many of them to the quantiles
# Of each channel: how often each value occurs in the rows that are counted, how often it is an image's least or largest
# value, and the number, the sum and the sum of squares of all pixels.
TALLY = (3, 256 + 256 + 3)
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)


class Columns:
    """Collects the numeric columns of a whole dataset."""

    def __init__(self) -> None:
        self._parts: dict[str, list[npt.NDArray[Any]]] = {}

    def add(self, key: str, values: npt.NDArray[Any]) -> None:
        """Append rows (rows,) or (rows, dimensions) to a column."""
        self._parts.setdefault(key, []).append(values)

    def stats(self, key: str) -> dict[str, list[Any]]:
        """Return the statistics of everything that was added to a column, and drop the column."""
        return vector_stats(np.concatenate(self._parts.pop(key)))


def vector_stats(values: npt.NDArray[Any]) -> dict[str, list[Any]]:
    """Return the statistics of a column (rows,) or (rows, dimensions), one value for each dimension; std is of the
    whole population.
    """
    of = [_dimension_stats(column) for column in values.reshape(len(values), -1).T]
    return {name: [len(values)] if name == "count" else [each[name] for each in of] for name in NAMES}


def _dimension_stats(column: npt.NDArray[Any]) -> dict[str, float]:
    values = column.astype(np.float64)
    found = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
    found |= zip(QUANTILES, np.quantile(values, list(QUANTILES.values())), strict=True)
    return {name: float(value) for name, value in found.items()}


def tally(image: npt.NDArray[np.uint8], turn: int = 0) -> npt.NDArray[np.int64]:
    """Return what image_stats needs of an image (height, width, 3), as TALLY: those of many images may be added.

    A histogram of every pixel would take half the time of decoding a large image: of those it has every n-th row only,
    others for every `turn`.
    """
    found = np.zeros(TALLY, np.int64)
    rows = len(image) // QUANTILE_ROWS if len(image) > WHOLE_ROWS else 1
    for of, plane in zip(found, _planes(image), strict=True):
        counted = plane[turn % rows :: rows]
        counts = cv2.calcHist([counted], [0], None, [256], [0, 256]).ravel()  # exact below 2**24 pixels
        of[:256] = counts
        # Most images have black and white in the rows that are counted, and there is nothing beyond.
        least, most = (0, 255) if counts[0] and counts[255] else map(int, cv2.minMaxLoc(plane)[:2])
        of[256 + least] += 1
        of[256 + most] += 1
        of[512:] = plane.size, cv2.sumElems(plane)[0], round(cv2.norm(plane, cv2.NORM_L2SQR))
    return found


_kept = threading.local()


def _planes(image: npt.NDArray[np.uint8]) -> Sequence[npt.NDArray[np.uint8]]:
    """Split an image into its channels, in memory that is taken again for the next one of this thread."""
    kept = getattr(_kept, "planes", None)
    if kept is None or kept[0].shape != image.shape[:2]:
        kept = _kept.planes = [np.empty(image.shape[:2], np.uint8) for _ in range(3)]
    return cv2.split(image, kept)  # type: ignore[return-value]


def image_stats(tallies: npt.NDArray[np.int64], frames: int) -> dict[str, list[Any]]:
    """Return the statistics, in 0..1, of `frames` images from the sum of their tallies: exact over every pixel, but
    for the quantiles of images of more than WHOLE_ROWS rows, which are those of about QUANTILE_ROWS rows of each.

    Every value is nested as [[[r]], [[g]], [[b]]], which is how LeRobot shapes them; count is the number of images.
    """
    per_channel = [_channel_stats(channel) for channel in tallies]
    stats: dict[str, list[Any]] = {name: [[[of[name] / 255]] for of in per_channel] for name in per_channel[0]}
    return {name: [frames] if name == "count" else stats[name] for name in NAMES}


def pooled(parts: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the statistics of several sets together: exact but for the quantiles, which are means weighted by count."""
    weights = np.array([part["count"][0] for part in parts], np.float64) / sum(part["count"][0] for part in parts)
    of = {name: np.array([part[name] for part in parts], np.float64) for name in NAMES}
    means = {name: np.tensordot(weights, of[name], axes=1) for name in ("mean", *QUANTILES)}
    spread = of["std"] ** 2 + (of["mean"] - means["mean"]) ** 2
    found = {**means, "std": np.sqrt(np.tensordot(weights, spread, axes=1))}
    found |= {"min": of["min"].min(axis=0), "max": of["max"].max(axis=0)}
    count = [sum(part["count"][0] for part in parts)]
    return {name: count if name == "count" else found[name].tolist() for name in NAMES}


def _channel_stats(tally: npt.NDArray[np.int64]) -> dict[str, float]:
    counts, extremes = tally[:256], np.flatnonzero(tally[256:512])
    pixels, total, squares = (int(value) for value in tally[512:])
    variance = (pixels * squares - total * total) / pixels**2  # whole numbers of any size: nothing cancels out
    stats = {"min": float(extremes[0]), "max": float(extremes[-1]), "mean": total / pixels, "std": variance**0.5}
    cumulated = np.cumsum(counts)
    for name, q in QUANTILES.items():
        rank = (int(cumulated[-1]) - 1) * q
        low, high = np.searchsorted(cumulated, [int(rank), min(int(rank) + 1, cumulated[-1] - 1)], side="right")
        stats[name] = float(low + (high - low) * (rank - int(rank)))
    return stats
