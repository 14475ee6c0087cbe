"""Recomputes the statistics of columns, and compares meta/stats.json and meta/episodes with them.

Numbers must agree with float32 accuracy. Quantiles, which LeRobot estimates from histograms, and statistics of images, which
it takes from a sample of them before they are compressed, are left alone: what makes them stale makes the others stale, too.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from common.lerobot.metadata import IMAGE_DTYPES, read_episodes
from common.lerobot.training import VECTORS
from stage1_convert.check.findings import Finding, Opened, shorten

Float64 = npt.NDArray[np.float64]
Limits = dict[str, tuple[Float64, Float64]]  # statistic -> the least and the largest value that it may have
STATS, EPISODES = "meta/stats.json", "meta/episodes"
FLOAT32_ROUNDING = 2.0**-20  # eight units in the last place of the mean square


class Difference(NamedTuple):
    """A stored statistic that does not describe the data; a serious one reaches the normalization of a policy."""

    key: str
    text: str
    is_serious: bool


def check_statistics(opened: Opened) -> Iterator[Finding]:
    """Compare all statistics: one finding for each vector, and one warning for each file about all others."""
    dataset, columns = opened.dataset, opened.columns
    whole = [_compare(opened, "", key, dataset.stats.get(key), _limits(values)) for key, values in columns.items()]
    yield from _report(STATS, [*whole, *(_check_shapes(opened, key) for key in dataset.features)])
    rows, found = read_episodes(opened.root, lambda name: name.startswith("stats/")), []
    for episode, row in zip(dataset.episodes, rows, strict=True):
        for key, values in columns.items():
            prefix = f"stats/{dataset.stored[key]}/"
            named = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
            if named:
                limits = _limits(values[episode.start : episode.stop])
                found.append(_compare(opened, f"row {episode.number}: stats/", key, named, limits))
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
    return {name: (right - off - 1e-9, right + off + 1e-9) for name, (right, off) in exact.items()}


def _check_shapes(opened: Opened, key: str) -> list[Difference]:
    """Return the statistics of images that LeRobot or a training cannot normalize by: missing, or of another shape."""
    feature, stored = opened.dataset.features[key], opened.dataset.stats.get(key, {})
    if feature.dtype not in IMAGE_DTYPES:
        return []
    shape = (feature.shape[2], 1, 1)
    odd = [name for name in ("mean", "std", "min", "max") if not _is_of_shape(stored.get(name), shape)]
    return [Difference(key, _describe_shape(key, name, stored.get(name), shape), True) for name in odd]


def _compare(opened: Opened, prefix: str, key: str, stored: Any, limits: Limits) -> list[Difference]:
    """Return the statistics of a column that are missing, have another shape or are outside of their limits."""
    feature, found = opened.dataset.features[key], []
    for name, (low, high) in limits.items():
        value, shape = (stored or {}).get(name), (1,) if name == "count" else feature.shape
        if not _is_of_shape(value, shape):
            found.append(
                Difference(key, prefix + _describe_shape(key, name, value, shape), not prefix and key in VECTORS)
            )
            continue
        values = np.ravel(np.asarray(value, np.float64))
        for i in np.flatnonzero((values < low) | (values > high))[:1]:
            text = f"{prefix}{key}: {name}[{i}]: found {values[i]:.6g}, expected {(low[i] + high[i]) / 2:.6g}"
            found.append(Difference(key, text, key in VECTORS))
    return found


def _is_of_shape(value: Any, shape: tuple[int, ...]) -> bool:
    try:
        values = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return False
    return values.shape == shape and bool(np.isfinite(values).all())


def _describe_shape(key: str, name: str, value: Any, shape: tuple[int, ...]) -> str:
    return f"{key}: {name}: found {shorten(value)}, expected finite numbers of shape {shape}"


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
