"""Recomputed columns and images in; the findings of meta/stats.json and of the episodes' statistics out.

What is exact and what is not: minimum, maximum, mean, standard deviation and count of a column of numbers are compared
as far as float32 goes. LeRobot estimates quantiles from histograms and pools them as means over the episodes, so a
dataset's quantile must lie in the span of its episodes' quantiles, and an episode's must have its rank, give or take two
rows. Of images LeRobot looks at a sample (and of videos before they are compressed): where fewer images are counted
than there are, where large ones may have been thinned out, for videos, and for images that our converter compressed after
counting them, mean and deviation may be off by 0.05 of the range of values and the extremes by 0.2. Where every stored pixel
counts, all are held to 0.001.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from common.cli.command import UserError
from common.lerobot.dataset import IMAGES, Feature
from common.storage.files import read_json
from stage1_convert.check.findings import Findings
from stage1_convert.check.images import Images, Tally
from stage1_convert.check.info import Declared
from stage1_convert.check.meta import Episodes
from stage1_convert.check.rows import Rows
from stage1_convert.dataset.stats import QUANTILES, image_stats
from stage1_convert.pipeline.cache import REPORT

Float64 = npt.NDArray[np.float64]
EXACT = ("min", "max", "mean", "std")
# How far mean and deviation, and the extremes, of images may be off; values go from 0 to 1.
WHOLE, SAMPLED = (1e-3, 1e-3), (0.05, 0.2)
THINNED_PX = 300  # LeRobot leaves out rows and columns of images from this size on


class Place(NamedTuple):
    """Where statistics stand: the file, its row, and the words for what they are of."""

    path: Path
    row: int | None
    what: str


def check_statistics(
    root: Path, declared: Declared, rows: Rows, images: Images, episodes: Episodes, findings: Findings
) -> None:
    """Recompute all statistics of the dataset and of every episode and hold the stored ones against them."""
    checker = _Checker(root, declared, rows, images, episodes, findings)
    checker.check_dataset(root / "meta" / "stats.json")
    if episodes.stats:
        checker.check_episodes()


class _Checker:
    def __init__(
        self, root: Path, declared: Declared, rows: Rows, images: Images, episodes: Episodes, findings: Findings
    ) -> None:
        self._rows, self._images, self._episodes, self._findings = rows, images, episodes, findings
        self._features = {key: f for key, f in declared.features.items() if f.dtype != "string"}
        record = root / REPORT
        self._ours = record.is_file()  # our own converter leaves no pixel out
        self._compressed = _compressed(record) if self._ours else set()

    def check_dataset(self, path: Path) -> None:
        self._findings.files.add(path)
        try:
            stored = read_json(path)
        except UserError as error:
            self._findings.add(path, str(error).removeprefix(f"{path} "))
            return
        if not isinstance(stored, dict):
            self._findings.add(path, f"found {type(stored).__name__}, expected an object")
            return
        for key in sorted(stored.keys() - self._features.keys()):
            self._findings.add(path, f"{key}: found statistics of a feature that info.json does not declare")
        count = self._rows.parts[-1].stop
        for key, feature in self._features.items():
            self._check(Place(path, None, key), key, feature, stored.get(key), (0, count), None)

    def check_episodes(self) -> None:
        names = sorted({name.split("/")[1] for name in self._episodes.stats})
        for number, bounds in enumerate(self._episodes.bounds):
            path, row = self._episodes.places[number]
            for key in names:
                feature = self._features.get(key)
                if feature is None:
                    if number == 0:
                        self._findings.add(path, f"stats/{key}: found statistics of a feature that is not declared")
                    continue
                stored = {
                    name.split("/")[2]: values[number]
                    for name, values in self._episodes.stats.items()
                    if name.split("/")[1] == key and values[number] is not None
                }
                self._check(Place(path, row, f"stats/{key}"), key, feature, stored, bounds, number)

    def _check(
        self, place: Place, key: str, feature: Feature, stored: Any, bounds: tuple[int, int], episode: int | None
    ) -> None:
        shape = (feature.shape[2], 1, 1) if feature.dtype in ("image", "video") else feature.shape
        arrays = self._arrays(place, stored, shape)
        if arrays is None:
            return
        start, stop = bounds
        if feature.dtype in ("image", "video"):
            every = self._images.tallies[key]
            counts = every.sum(axis=0) if episode is None else every[episode]
            if counts.any():
                self._check_images(place, key, arrays, counts, stop - start)
            return
        values = self._rows.columns[key][start:stop].reshape(stop - start, -1).astype(np.float64)
        self._check_numbers(place, arrays, values)
        spans = [bounds, *(self._episodes.bounds if episode is None else [])]
        self._check_quantiles(place, key, arrays, spans)

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
        return arrays

    def _check_numbers(self, place: Place, stored: Mapping[str, Float64], values: Float64) -> None:
        """Compare with float32 accuracy: LeRobot sums float32 columns in float32."""
        exact = {"min": values.min(axis=0), "max": values.max(axis=0), "mean": values.mean(axis=0)}
        exact |= {"std": values.std(axis=0), "count": np.array([len(values)])}
        size = np.abs(values).max(axis=0)
        for name, right in exact.items():
            limit = 0 if name == "count" else (2e-7 if name in ("min", "max") else 1e-5) * size + 1e-9
            self._near(place, name, stored[name].ravel(), right, limit)

    def _check_quantiles(
        self, place: Place, key: str, stored: Mapping[str, Float64], spans: list[tuple[int, int]]
    ) -> None:
        """A quantile lies between the least and the largest that any of the row ranges `spans` would allow."""
        ordered = [
            np.sort(self._rows.columns[key][start:stop].reshape(stop - start, -1), axis=0) for start, stop in spans
        ]
        for name in (name for name in QUANTILES if name in stored):
            limits = [_rank_limits(values.astype(np.float64), QUANTILES[name]) for values in ordered]
            low, high = np.min([low for low, _ in limits], axis=0), np.max([high for _, high in limits], axis=0)
            self._within(place, name, stored[name].ravel(), low, high)

    def _check_images(self, place: Place, key: str, stored: Mapping[str, Float64], counts: Tally, frames: int) -> None:
        feature = self._features[key]
        right = {name: np.asarray(value).ravel() for name, value in image_stats(counts, frames).items()}
        found = {name: array.ravel() for name, array in stored.items()}
        counted = int(found["count"][0])
        if not 1 <= counted <= frames:
            self._note(place, f"count: found {counted}, expected 1 to {frames}")
        sampled = counted < frames or (max(feature.shape[:2]) >= THINNED_PX and not self._ours)
        lossy = feature.dtype == "video" or key in self._compressed
        close, far = SAMPLED if sampled or lossy else WHOLE
        for name in ("mean", "std"):
            self._near(place, name, found[name], right[name], np.full(3, close))
        for name, low, high in (("min", right["min"], right["mean"]), ("max", right["mean"], right["max"])):
            if lossy or not sampled:
                self._near(place, name, found[name], right[name], np.full(3, far))
            else:  # a sample may miss the extremes, it cannot exceed them
                self._within(place, name, found[name], low - 1e-3, high + 1e-3)
        previous = found["min"] - 1e-3
        for name in (name for name in QUANTILES if name in found):
            self._within(place, name, found[name], previous, found["max"] + 1e-3)
            previous = found[name] - 1e-6

    def _near(self, place: Place, name: str, found: Float64, right: Float64, limit: Any) -> None:
        if found.shape != right.shape:
            self._note(place, f"{name}: found {len(found)} values, expected {len(right)}")
        elif (np.abs(found - right) > limit).any():
            self._note(place, f"{name}: found {_text(found)}, expected {_text(right)}")

    def _within(self, place: Place, name: str, found: Float64, low: Float64, high: Float64) -> None:
        if ((found < low) | (found > high)).any():
            self._note(place, f"{name}: found {_text(found)}, expected between {_text(low)} and {_text(high)}")

    def _note(self, place: Place, text: str) -> None:
        self._findings.add(place.path, f"{place.what}: {text}", place.row)


def _compressed(record: Path) -> set[str]:
    """Return the features whose images were compressed after they had been counted."""
    try:
        return {IMAGES + camera for bag in read_json(record)["bags"] for camera in bag.get("compressed", [])}
    except (UserError, KeyError, TypeError, AttributeError):
        return set()  # what is wrong with the record is told by traces.py


def _rank_limits(ordered: Float64, q: float) -> tuple[Float64, Float64]:
    """Return the values two rows before and after the rank of a quantile, widened by a histogram's bin."""
    last, slack = len(ordered) - 1, (ordered[-1] - ordered[0]) / 1000 + 1e-6
    rank = int(q * last)
    return ordered[max(rank - 2, 0)] - slack, ordered[min(rank + 3, last)] + slack


def _text(values: Float64) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
