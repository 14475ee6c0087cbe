"""Recomputes the statistics of a dataset and of its episodes, and holds meta/stats.json and meta/episodes against them.

Minimum, maximum, mean, standard deviation and count of a column of numbers are compared with float32 accuracy. LeRobot
estimates quantiles from histograms and pools them as means over the episodes, so a dataset's quantile must lie in the span
of its episodes' quantiles, and an episode's must have its rank, give or take two rows. Statistics of images cover LeRobot's
sample of frames and are held to 0.001 of the range of values. That is not possible for videos and for images that a
conversion compressed after measuring them, nor where another number of images was measured: there mean and deviation may
be off by 0.05 and the extremes by 0.2.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from common.cli.command import UserError
from common.lerobot.metadata import IMAGE_DTYPES, IMAGES, INDEX_COLUMNS, Feature
from common.storage.files import read_json
from stage1_convert.check.findings import Findings
from stage1_convert.check.images import ImageSample
from stage1_convert.check.info import Declared
from stage1_convert.check.meta import Episodes
from stage1_convert.check.rows import Rows
from stage1_convert.dataset.record import read_record
from stage1_convert.dataset.stats import QUANTILES, Stats, image_stats, pooled, sample_frames

Float64 = npt.NDArray[np.float64]
FLOAT32_ROUNDING = 2.0**-20  # eight units in the last place of the mean square
EXACT = ("min", "max", "mean", "std")
# How far mean and deviation, and extremes and quantiles, of images may be off; values go from 0 to 1.
SAME_PIXELS, OTHER_PIXELS = (1e-3, 1e-3), (0.05, 0.2)


ALL_PIXELS = "meta/pictures.parquet"  # left by earlier releases, which measured every pixel


class Place(NamedTuple):
    """Where statistics are stored: the file, its row, and the words for what they are of."""

    path: Path
    row: int | None
    what: str


def check_statistics(
    root: Path, declared: Declared, rows: Rows, images: ImageSample, episodes: Episodes, findings: Findings
) -> None:
    """Hold all statistics of the dataset and of every episode against recomputed ones."""
    features = {key: feature for key, feature in declared.features.items() if feature.dtype != "string"}
    checker = _Checker(features, rows, images, episodes, _measured_otherwise(root, declared), findings)
    stored = _read_stats(root / "meta" / "stats.json", findings)
    if stored is not None:
        checker.check_dataset(root / "meta" / "stats.json", stored)
    if episodes.stats:
        checker.check_episodes()
    checker.hint_stale()


def _read_stats(path: Path, findings: Findings) -> dict[str, Any] | None:
    findings.files.add(path)
    try:
        stored = read_json(path)
    except UserError as error:
        findings.add(path, str(error).removeprefix(f"{path} "))
        return None
    if not isinstance(stored, dict):
        findings.add(path, f"found {type(stored).__name__}, expected an object")
        return None
    return stored


def _measured_otherwise(root: Path, declared: Declared) -> set[str]:
    """Return the features whose statistics cover other pixels than LeRobot's sample of the stored ones."""
    if (root / ALL_PIXELS).exists():
        return set(declared.of_dtype("image"))
    try:
        record = read_record(root)
    except UserError:
        return set()  # provenance.py reports what is wrong with the record
    return {IMAGES + camera for bag in (record.bags if record else []) for camera in bag.compressed}


class _Checker:
    def __init__(
        self,
        features: dict[str, Feature],
        rows: Rows,
        images: ImageSample,
        episodes: Episodes,
        otherwise: set[str],
        findings: Findings,
    ) -> None:
        self._features, self._rows, self._episodes = features, rows, episodes
        self._otherwise, self._findings = otherwise, findings
        self._stale: dict[Path, list[str]] = {}  # features whose statistics neither LeRobot nor the training uses
        lengths = [len(sample_frames(max(stop - start, 1))) for start, stop in episodes.bounds]
        # Of each feature, its episodes' statistics; None where no image of an episode could be decoded.
        self._images: dict[str, list[Stats | None]] = {
            key: [image_stats(counts, n) if counts.any() else None for counts, n in zip(sums, lengths, strict=True)]
            for key, sums in images.sums.items()
        }

    def check_dataset(self, path: Path, stored: Mapping[str, Any]) -> None:
        for key in sorted(stored.keys() - self._features.keys()):
            self._findings.add(path, f"{key}: found statistics of a feature that info.json does not declare")
        for key in self._features:
            self._check(Place(path, None, key), key, stored.get(key), range(len(self._episodes.bounds)))

    def check_episodes(self) -> None:
        stats = self._episodes.stats
        for key in sorted({name.split("/")[1] for name in stats}):
            if key not in self._features:
                self._findings.add(
                    self._episodes.places[0][0], f"stats/{key}: found statistics of an undeclared feature"
                )
                continue
            columns = {name.split("/")[2]: values for name, values in stats.items() if name.split("/")[1] == key}
            for number, (path, row) in enumerate(self._episodes.places):
                stored = {name: values[number] for name, values in columns.items() if values[number] is not None}
                self._check(Place(path, row, f"stats/{key}"), key, stored, [number])

    def _check(self, place: Place, key: str, stored: Any, episodes: Sequence[int]) -> None:
        """Hold the statistics of a feature over some episodes, one or all, against recomputed ones."""
        feature = self._features[key]
        is_image = feature.dtype in IMAGE_DTYPES
        arrays = self._arrays(place, stored, (feature.shape[2], 1, 1) if is_image else feature.shape)
        if arrays is None:
            return
        if is_image:
            self._check_images(place, key, arrays, episodes)
            return
        columns = [self._column(key, bounds) for bounds in (self._episodes.bounds[episode] for episode in episodes)]
        values = columns[0] if len(columns) == 1 else self._column(key, (0, self._rows.parts[-1].stop))
        self._check_numbers(place, arrays, values)
        spans = [values, *columns] if len(columns) > 1 else [values]
        ordered = [np.sort(column, axis=0) for column in spans]
        self._check_quantiles(
            place, arrays, {name: [_rank_limits(column, q) for column in ordered] for name, q in QUANTILES.items()}
        )

    def _column(self, key: str, bounds: tuple[int, int]) -> Float64:
        start, stop = bounds
        return self._rows.columns[key][start:stop].reshape(stop - start, -1).astype(np.float64)

    def _arrays(self, place: Place, stored: Any, shape: tuple[int, ...]) -> dict[str, Float64] | None:
        """Return the stored statistics as arrays, or None after noting what is missing or of another shape."""
        if not isinstance(stored, dict):
            self._note(place, f"found {stored!r}, expected min, max, mean, std and count")
            return None
        arrays: dict[str, Float64] = {}
        for name in (*EXACT, "count", *(name for name in QUANTILES if name in stored)):
            expected = (1,) if name == "count" else shape
            try:
                arrays[name] = np.asarray(stored.get(name), np.float64)
            except (TypeError, ValueError):
                arrays[name] = np.zeros(())
            if arrays[name].shape != expected or not np.isfinite(arrays[name]).all():
                self._note(place, f"{name}: found {stored.get(name)!r}, expected finite numbers of shape {expected}")
                return None
        return {name: array.ravel() for name, array in arrays.items()}

    def _check_numbers(self, place: Place, stored: Mapping[str, Float64], values: Float64) -> None:
        """Compare with float32 accuracy: LeRobot sums float32 columns in float32."""
        exact = {"min": values.min(axis=0), "max": values.max(axis=0), "mean": values.mean(axis=0)}
        exact |= {"std": values.std(axis=0), "count": np.array([len(values)])}
        size = np.abs(values).max(axis=0)
        for name, right in exact.items():
            limit = 0 if name == "count" else (2e-7 if name in ("min", "max") else 1e-5) * size + 1e-9
            if name == "std":  # LeRobot takes E[x^2] - E[x]^2 in float32, which loses digits where x is far from 0
                limit = np.maximum(limit, np.sqrt(right**2 + FLOAT32_ROUNDING * size**2) - right)
            self._near(place, name, stored[name], right, limit)

    def _check_images(self, place: Place, key: str, stored: Mapping[str, Float64], episodes: Sequence[int]) -> None:
        parts = [part for part in (self._images[key][episode] for episode in episodes) if part is not None]
        if not parts:
            return
        right = {name: np.ravel(value).astype(np.float64) for name, value in pooled(parts).items()}
        counted, frames = (
            int(stored["count"][0]),
            sum(self._episodes.columns["length"][episode] for episode in episodes),
        )
        if not 1 <= counted <= frames:
            self._note(place, f"count: found {counted}, expected 1 to {frames}")
        is_lossy = self._features[key].dtype == "video" or key in self._otherwise
        close, far = OTHER_PIXELS if is_lossy or counted != right["count"][0] else SAME_PIXELS
        for name in EXACT:
            self._near(place, name, stored[name], right[name], close if name in ("mean", "std") else far)
        quantiles = {name: [np.ravel(part[name]).astype(np.float64) for part in parts] for name in QUANTILES}
        self._check_quantiles(
            place,
            stored,
            {name: [(value - far, value + far) for value in values] for name, values in quantiles.items()},
        )

    def _check_quantiles(
        self, place: Place, stored: Mapping[str, Float64], limits: Mapping[str, list[tuple[Float64, Float64]]]
    ) -> None:
        """A quantile lies between the least and the largest of its limits (lowest, highest), one pair for each span."""
        for name in (name for name in QUANTILES if name in stored):
            low, high = (np.array(bounds) for bounds in zip(*limits[name], strict=True))
            self._within(place, name, stored[name], low.min(axis=0), high.max(axis=0))

    def _near(self, place: Place, name: str, found: Float64, right: Float64, limit: Any) -> None:
        if found.shape != right.shape:
            self._note(place, f"{name}: found {len(found)} values, expected {len(right)}")
        elif (np.abs(found - right) > limit).any():
            self._note(place, f"{name}: found {_text(found)}, expected {_text(right)}")

    def _within(self, place: Place, name: str, found: Float64, low: Float64, high: Float64) -> None:
        if ((found < low) | (found > high)).any():
            self._note(place, f"{name}: found {_text(found)}, expected between {_text(low)} and {_text(high)}")

    def _note(self, place: Place, text: str) -> None:
        key = place.what.removeprefix("stats/")
        if key in INDEX_COLUMNS:
            self._stale.setdefault(place.path, []).append(key)
        else:
            self._findings.add(place.path, f"{place.what}: {text}", place.row)

    def hint_stale(self) -> None:
        """Note in one line for each file the statistics of numbers that an editing tool has left as they were."""
        for path, keys in self._stale.items():
            names = ", ".join(dict.fromkeys(keys))
            self._findings.hint(
                path, f"{len(keys)} statistics of {names} are stale, as LeRobot's edit tool leaves them"
            )


def _rank_limits(ordered: Float64, q: float) -> tuple[Float64, Float64]:
    """Return the values two rows before and after the rank of a quantile, widened by a histogram's bin."""
    last, slack = len(ordered) - 1, (ordered[-1] - ordered[0]) / 1000 + 1e-6
    rank = int(q * last)
    return ordered[max(rank - 2, 0)] - slack, ordered[min(rank + 3, last)] + slack


def _text(values: Float64) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
