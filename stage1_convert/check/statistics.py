"""Recomputes the statistics of columns, and compares meta/stats.json with them.

Numbers must agree with float32 accuracy. Quantiles, which LeRobot estimates from histograms, and statistics of images, which
it takes from a sample of them before they are compressed, are left alone: what makes them stale makes the others stale, too.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from common.lerobot.metadata import IMAGE_DTYPES
from common.lerobot.training import VECTORS
from stage1_convert.check.findings import Finding, Opened, shorten

Float64 = npt.NDArray[np.float64]
Limits = dict[str, tuple[Float64, Float64]]  # statistic -> the least and the largest value that it may have
STATS = "meta/stats.json"
OF_IMAGES = ("min", "max", "mean", "std")  # those that LeRobot or a training normalizes images by
FLOAT32_ROUNDING = 2.0**-20  # eight units in the last place of the mean square


def check_statistics(opened: Opened) -> Iterator[Finding]:
    """Yield a fault about each feature whose statistics reach the normalization of a policy, one warning about all others."""
    stale: dict[str, list[str]] = {}
    for key, feature in opened.dataset.features.items():
        found = list(_differences(opened, key))
        if not found:
            continue
        if key in VECTORS or feature.dtype in IMAGE_DTYPES:
            more = f" (and {len(found) - 1} more statistics)" if len(found) > 1 else ""
            yield Finding("fault", f"{STATS}: {found[0]}{more}")
        else:
            stale[key] = found
    if stale:
        texts = [text for found in stale.values() for text in found]
        yield Finding(
            "warning", f"{STATS}: {len(texts)} statistics of {', '.join(stale)} are stale, such as {texts[0]}"
        )


def _differences(opened: Opened, key: str) -> Iterator[str]:
    """Yield the statistics of a feature that are missing, have another shape or do not describe the column."""
    feature, stored = opened.dataset.features[key], opened.dataset.stats.get(key, {})
    is_image = feature.dtype in IMAGE_DTYPES
    limits = _limits(opened.columns[key]) if key in opened.columns else {}
    shape = (feature.shape[2], 1, 1) if is_image else feature.shape
    for name in OF_IMAGES if is_image else limits:
        values, wanted = stored.get(name), (1,) if name == "count" else shape
        if values is None or values.shape != wanted or not np.isfinite(values).all():
            yield f"{key}: {name}: found {shorten(values)}, expected finite numbers of shape {wanted}"
        elif not is_image:
            low, high = limits[name]
            for i in np.flatnonzero((values < low) | (values > high))[:1]:
                yield f"{key}: {name}[{i}]: found {values[i]:.6g}, expected {(low[i] + high[i]) / 2:.6g}"


def _limits(values: npt.NDArray[Any]) -> Limits:
    """Return the limits of the statistics of a column; LeRobot sums float32 columns in float32."""
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
