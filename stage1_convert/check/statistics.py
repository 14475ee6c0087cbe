"""Recomputes the statistics of a dataset and of its episodes, and compares meta/stats.json and meta/episodes with them.

Numbers must agree with float32 accuracy. LeRobot estimates quantiles from histograms and pools them as means over the
episodes, so a dataset's quantile must be within the span of its episodes' quantiles, and an episode's must have its rank,
give or take two rows. LeRobot measures a sample of the images, before it compresses them: mean and deviation may be off by
0.05, and extremes by 0.2.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from common.lerobot.metadata import IMAGE_DTYPES, read_episodes
from common.lerobot.training import VECTORS
from stage1_convert.check.findings import Finding, Opened, shorten
from stage1_convert.dataset.stats import QUANTILES, Stats, pooled

Float64 = npt.NDArray[np.float64]
Limits = dict[str, tuple[Float64, Float64]]  # statistic -> the least and the largest value that it may have
STATS, EPISODES = "meta/stats.json", "meta/episodes"
FLOAT32_ROUNDING = 2.0**-20  # eight units in the last place of the mean square
IMAGE_TOLERANCE = {"mean": 0.05, "std": 0.05, "min": 0.2, "max": 0.2}


class Difference(NamedTuple):
    """A stored statistic that does not describe the data; a serious one reaches the normalization of a policy."""

    key: str
    text: str
    is_serious: bool


def check_statistics(opened: Opened) -> Iterator[Finding]:
    """Compare all statistics: one finding for each vector, and one warning for each file about all others."""
    bounds = [(episode.start, episode.stop) for episode in opened.dataset.episodes]
    whole, parts = dict[str, Limits](), dict[str, list[Limits | None]]()
    for key, values in opened.columns.items():
        rows = [_limits(values[start:stop]) for start, stop in bounds]
        parts[key], whole[key] = list(rows), _limits(values) | _span([*rows, _limits(values)])
    for key, stats in opened.image_stats.items():
        parts[key] = [_image_limits(part) if part else None for part in stats]
        if measured := [part for part in stats if part]:
            whole[key] = _image_limits(pooled(measured))
    yield from _report(
        STATS, [_compare(opened, "", key, opened.dataset.stats.get(key), limits) for key, limits in whole.items()]
    )
    stored = read_episodes(opened.root, lambda name: name.startswith("stats/"))
    found = []
    for number, row in enumerate(stored):
        for key, parts_of_key in parts.items():
            limits, prefix = parts_of_key[number], f"stats/{opened.dataset.stored[key]}/"
            named = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
            if limits and named:
                found.append(_compare(opened, f"row {number}: stats/", key, named, limits))
    yield from _report(EPISODES, found)


def _limits(values: npt.NDArray[Any]) -> Limits:
    """Return the limits of the statistics of some rows of a column; LeRobot sums float32 columns in float32."""
    values = values.reshape(len(values), -1).astype(np.float64)
    size, std = np.abs(values).max(axis=0), values.std(axis=0)
    # LeRobot takes E[x^2] - E[x]^2, which loses digits where x is far from 0.
    off_std = np.maximum(1e-5 * size, np.sqrt(std**2 + FLOAT32_ROUNDING * size**2) - std)
    exact = {
        "min": (values.min(axis=0), 2e-7 * size),
        "max": (values.max(axis=0), 2e-7 * size),
        "mean": (values.mean(axis=0), 1e-5 * size),
        "std": (std, off_std),
        "count": (np.array([len(values)]), np.zeros(1)),
    }
    limits = {name: (right - off - 1e-9, right + off + 1e-9) for name, (right, off) in exact.items()}
    slack = np.ptp(values, axis=0) / 1000 + 1e-6  # the width of a bin
    ranks = np.clip(np.array([list(QUANTILES.values())]) + np.array([[-2], [3]]) / len(values), 0, 1)
    low, high = np.quantile(values, ranks, axis=0)
    return limits | {name: (low[i] - slack, high[i] + slack) for i, name in enumerate(QUANTILES)}


def _span(parts: list[Limits]) -> Limits:
    """Return the limits of quantiles that were pooled from parts."""
    ends = {name: [np.array([part[name][end] for part in parts]) for end in (0, 1)] for name in QUANTILES}
    return {name: (low.min(axis=0), high.max(axis=0)) for name, (low, high) in ends.items()}


def _image_limits(stats: Stats) -> Limits:
    return {name: (np.ravel(stats[name]) - off, np.ravel(stats[name]) + off) for name, off in IMAGE_TOLERANCE.items()}


def _compare(opened: Opened, prefix: str, key: str, stored: Any, limits: Limits) -> list[Difference]:
    """Return the statistics of a feature that are missing, have another shape or are outside of their limits."""
    feature, found = opened.dataset.features[key], []
    shape = (feature.shape[2], 1, 1) if feature.dtype in IMAGE_DTYPES else feature.shape
    for name, (low, high) in limits.items():
        value = (stored or {}).get(name)
        if value is None and name in QUANTILES:
            continue  # LeRobot 0.3 had none
        try:
            values = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            values = np.zeros(0)
        if values.shape != ((1,) if name == "count" else shape) or not np.isfinite(values).all():
            is_used = not prefix and (key in VECTORS or feature.dtype in IMAGE_DTYPES)
            text = f"{prefix}{key}: {name}: found {shorten(value)}, expected finite numbers of shape {shape}"
            found.append(Difference(key, text, is_used))
            continue
        values = values.ravel()
        for i in np.flatnonzero((values < low) | (values > high))[:1]:
            near = f"{low[i]:.6g} to {high[i]:.6g}" if name in QUANTILES else f"{(low[i] + high[i]) / 2:.6g}"
            text = f"{prefix}{key}: {name}[{i}]: found {values[i]:.6g}, expected {near}"
            found.append(Difference(key, text, key in VECTORS and name not in QUANTILES))
    return found


def _report(file: str, found: list[list[Difference]]) -> Iterator[Finding]:
    """Yield a fault about each feature with serious differences, and one warning about all others of the file."""
    differences = [difference for group in found for difference in group]
    for key in dict.fromkeys(difference.key for difference in differences if difference.is_serious):
        serious = [difference.text for difference in differences if difference.is_serious and difference.key == key]
        more = f" (and {len(serious) - 1} more statistics)" if len(serious) > 1 else ""
        yield Finding("fault", f"{file}: {serious[0]}{more}")
    stale = [difference for difference in differences if not difference.is_serious]
    if stale:
        keys = ", ".join(dict.fromkeys(difference.key for difference in stale))
        yield Finding("warning", f"{file}: {len(stale)} statistics of {keys} are stale, such as {stale[0].text}")
