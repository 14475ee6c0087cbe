"""Columns and pictures in; the exact statistics a LeRobot dataset carries out.

Quantiles are those of numpy's default method (linear between neighbours). LeRobot 0.6 estimates them from histograms
and samples the pictures, so its figures differ a little.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)


def vector_stats(values: npt.NDArray[Any]) -> dict[str, list[Any]]:
    """Return the statistics of a column (rows,) or (rows, dimensions), one value for each dimension; std is of the
    whole population.
    """
    table = values.reshape(len(values), -1).astype(np.float64)
    quantiles = np.quantile(table, list(QUANTILES.values()), axis=0)
    found = [table.min(axis=0), table.max(axis=0), table.mean(axis=0), table.std(axis=0), np.array([len(table)])]
    return {name: array.tolist() for name, array in zip(NAMES, [*found, *quantiles], strict=True)}


def histogram(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return how often each of the 256 values occurs in each channel of a picture (height, width, 3): (3, 256)."""
    counts = [cv2.calcHist([picture], [channel], None, [256], [0, 256]).ravel() for channel in range(3)]
    return np.stack(counts).astype(np.int64)  # calcHist counts in float32: exact below 2**24 pixels


def picture_stats(counts: npt.NDArray[np.int64], frames: int) -> dict[str, list[Any]]:
    """Return the statistics, in 0..1, over every pixel of `frames` pictures from their summed histogram (3, 256).

    Every value is nested as [[[r]], [[g]], [[b]]], which is how LeRobot shapes them; count is the number of pictures.
    """
    per_channel = [_channel_stats(channel) for channel in counts]
    stats: dict[str, list[Any]] = {name: [[[of[name] / 255]] for of in per_channel] for name in per_channel[0]}
    return {name: [frames] if name == "count" else stats[name] for name in NAMES}


def _channel_stats(counts: npt.NDArray[np.int64]) -> dict[str, float]:
    values, present, total = np.arange(256.0), np.flatnonzero(counts), int(counts.sum())
    mean = float(counts @ values) / total
    stats = {"min": float(present[0]), "max": float(present[-1]), "mean": mean}
    stats["std"] = float(np.sqrt(counts @ (values - mean) ** 2 / total))
    cumulated = np.cumsum(counts)
    for name, q in QUANTILES.items():
        rank = (total - 1) * q
        low, high = np.searchsorted(cumulated, [int(rank), min(int(rank) + 1, total - 1)], side="right")
        stats[name] = float(low + (high - low) * (rank - int(rank)))
    return stats
