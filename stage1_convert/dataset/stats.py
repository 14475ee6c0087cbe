"""The statistics that a LeRobot dataset carries, of its columns and of its images.

Statistics of a column are exact and cover all of its rows. Those of images follow LeRobot (0.6,
datasets/compute_stats.py): they cover some frames of each episode and, of large images, some pixels, and a dataset's
are pooled from its episodes'. Equal inputs give equal statistics, bit for bit.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from common.lerobot.images import Image

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)
MIN_SAMPLED_FRAMES, MAX_SAMPLED_FRAMES, SAMPLED_POWER = 100, 10_000, 0.75
LARGE_PX, TARGET_PX = 300, 150  # an image with a side of at least LARGE_PX is thinned out to about TARGET_PX
HISTOGRAM = (3, 256)  # channels, values of a pixel

Stats = dict[str, list[Any]]
Histogram = npt.NDArray[np.int64]


def column_stats(values: npt.NDArray[Any]) -> Stats:
    """Return the statistics of a column (rows,) or (rows, dimensions), one number for each dimension.

    The standard deviation is that of the population; quantiles are interpolated linearly, numpy's default.
    """
    columns = values.reshape(len(values), -1).T.astype(np.float64, order="C")
    stats: Stats = {name: getattr(columns, name)(axis=1).tolist() for name in NAMES[:4]}
    stats["count"] = [len(values)]
    return stats | dict(zip(QUANTILES, np.quantile(columns, list(QUANTILES.values()), axis=1).tolist(), strict=True))


def sample_frames(length: int) -> npt.NDArray[np.int64]:
    """Return the frames of an episode of `length` frames whose images are measured, evenly spaced from first to last.

    They are length ** 0.75 frames, but at least 100 (or all there are) and at most 10,000.
    """
    count = min(int(length**SAMPLED_POWER), MAX_SAMPLED_FRAMES)
    count = max(count, min(length, MIN_SAMPLED_FRAMES))
    return np.round(np.linspace(0, length - 1, count)).astype(np.int64)


def histogram(image: Image) -> Histogram:
    """Return how often each channel of an RGB image (height, width, 3) takes each value, as HISTOGRAM.

    Of a large image only every n-th pixel of every n-th row counts.
    """
    longer = max(image.shape[:2])
    stride = longer // TARGET_PX if longer >= LARGE_PX else 1
    channels = image[::stride, ::stride].transpose(2, 0, 1).reshape(HISTOGRAM[0], -1)
    return np.stack([np.bincount(channel, minlength=HISTOGRAM[1]) for channel in channels])


def image_stats(counts: Histogram, frames: int) -> Stats:
    """Return the statistics of `frames` images, in 0..1, from the sum of their histograms.

    Numbers are nested [[[red]], [[green]], [[blue]]], LeRobot's shape (3, 1, 1). A quantile q is the least value that at
    least the share q of the pixels does not exceed: LeRobot's estimate, but for the width of its bins.
    """
    values, pixels = np.arange(HISTOGRAM[1]), counts.sum(axis=1, keepdims=True)
    mean = (counts * values).sum(axis=1, keepdims=True) / pixels
    variance = (counts * (values - mean) ** 2).sum(axis=1) / pixels[:, 0]
    cumulated = counts.cumsum(axis=1)
    found = {"min": (cumulated == 0).sum(axis=1), "max": (cumulated < pixels).sum(axis=1)}
    found |= {"mean": mean[:, 0], "std": np.sqrt(variance)}
    found |= {name: (cumulated < q * pixels).sum(axis=1) for name, q in QUANTILES.items()}
    return {name: [frames] if name == "count" else (found[name] / 255)[:, None, None].tolist() for name in NAMES}


def pooled(parts: Sequence[Stats]) -> Stats:
    """Return the statistics of several sets together, from those of each, as LeRobot does.

    They are exact but for the quantiles, which are the sets' means weighted by their counts.
    """
    counts = np.array([part["count"][0] for part in parts])
    arrays = {name: np.array([part[name] for part in parts], np.float64) for name in NAMES}
    found = {name: np.average(arrays[name], axis=0, weights=counts) for name in ("mean", *QUANTILES)}
    variances = arrays["std"] ** 2 + (arrays["mean"] - found["mean"]) ** 2
    found["std"] = np.sqrt(np.average(variances, axis=0, weights=counts))
    found |= {"min": arrays["min"].min(axis=0), "max": arrays["max"].max(axis=0)}
    return {name: [int(counts.sum())] if name == "count" else found[name].tolist() for name in NAMES}
