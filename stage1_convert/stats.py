"""Columns and pictures in; the exact statistics a LeRobot dataset carries out.

Quantiles are those of numpy's default method (linear between neighbours). LeRobot 0.6 estimates them from histograms
and samples the pictures, so its figures differ a little.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stage1_convert.spool import Spool

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)


class Columns:
    """Collects the columns of a whole dataset, so that memory holds one dimension of one column at a time, however many
    episodes there are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._spools = folder, dict[str, Spool]()

    def add(self, key: str, values: npt.NDArray[Any]) -> None:
        """Append rows (rows,) or (rows, dimensions) to a column."""
        self._spools.setdefault(key, Spool(self._folder)).add(values)

    def stats(self, key: str) -> dict[str, list[Any]]:
        """Return the statistics of everything that was added to a column, which is then forgotten."""
        return vector_stats(self._spools.pop(key).array())


def vector_stats(values: npt.NDArray[Any]) -> dict[str, list[Any]]:
    """Return the statistics of a column (rows,) or (rows, dimensions), one value for each dimension; std is of the
    whole population.
    """
    of = [_dimension_stats(column.astype(np.float64)) for column in values.reshape(len(values), -1).T]
    return {name: [len(values)] if name == "count" else [each[name] for each in of] for name in NAMES}


def _dimension_stats(values: npt.NDArray[np.float64]) -> dict[str, float]:
    quantiles = dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())).tolist(), strict=True))
    found = {"min": values.min(), "max": values.max(), "mean": values.mean(), "std": values.std()}
    return {name: float(value) for name, value in found.items()} | quantiles


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
