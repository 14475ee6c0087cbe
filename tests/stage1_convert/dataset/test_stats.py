"""Statistics against numpy over all values, and against those that LeRobot 0.6.1 wrote itself."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.lerobot.dataset import Dataset
from common.lerobot.images import Image
from common.storage.files import read_json
from stage1_convert.dataset import stats
from stage1_convert.dataset.stats import Stats
from tests.conftest import GOLDEN

COLOR = "observation.images.color"

images = st.integers(1, 4).flatmap(
    lambda n: arrays(np.uint8, (n, 5, 7, 3), elements=st.sampled_from([0, 1, 7, 128, 254, 255]))
)


def measure(batch: Image) -> Stats:
    """Return the statistics of images (images, height, width, 3)."""
    return stats.image_stats(np.sum([stats.histogram(image) for image in batch], axis=0), len(batch))


def assert_equal_numpy(found: Stats, pixels: Image) -> None:
    """Hold the statistics against numpy's over the pixels (..., 3)."""
    values = pixels.reshape(-1, 3) / 255
    expected = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    for name, value in expected.items():
        np.testing.assert_allclose(np.ravel(found[name]), value, atol=1e-12, err_msg=name)
    for name, q in stats.QUANTILES.items():
        quantile = np.quantile(values, q, axis=0, method="inverted_cdf")
        np.testing.assert_allclose(np.ravel(found[name]), quantile, atol=1e-12, err_msg=name)


@settings(deadline=None)
@given(images)
def test_image_statistics_are_numpys_over_all_pixels(batch: Image) -> None:
    found = measure(batch)
    assert list(found) == list(stats.NAMES)
    assert found["count"] == [len(batch)]
    assert np.array(found["mean"]).shape == (3, 1, 1)
    assert_equal_numpy(found, batch)


@pytest.mark.parametrize(("size", "stride"), [((299, 64), 1), ((300, 64), 2), ((480, 640), 4), ((1080, 1920), 12)])
def test_large_images_are_thinned_out_by_stride(size: tuple[int, int], stride: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert_equal_numpy(measure(image[None]), image[::stride, ::stride])


@pytest.mark.parametrize(
    ("length", "count"), [(1, 1), (42, 42), (100, 100), (101, 100), (1000, 177), (10_000, 1000), (10**6, 10_000)]
)
def test_frames_are_sampled_evenly_from_first_to_last(length: int, count: int) -> None:
    frames = stats.sample_frames(length)
    assert len(frames) == count
    assert (frames[0], frames[-1]) == (0, length - 1)
    steps = np.diff(frames)
    assert count == 1 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_statistics_of_images_are_those_that_lerobot_wrote() -> None:
    """Means to float32, deviations to LeRobot's float32 sums, quantiles to the bins of its histograms."""
    dataset = Dataset.open(GOLDEN / "dataset_image")
    episodes = pq.read_table(dataset.root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    parts = []
    for episode, row in zip(dataset.episodes, episodes, strict=True):
        shown = np.stack(list(dataset.images(episode, "color")))
        parts.append(measure(shown[stats.sample_frames(episode.length)]))
        _assert_near_lerobot(parts[-1], {name: row[f"stats/{COLOR}/{name}"] for name in stats.NAMES})
    _assert_near_lerobot(stats.pooled(parts), read_json(dataset.root / "meta" / "stats.json")[COLOR])


def _assert_near_lerobot(found: Stats, expected: Stats) -> None:
    assert found["count"] == expected["count"]
    limits = {"min": 1e-7, "max": 1e-7, "mean": 1e-5, "std": 1e-4} | dict.fromkeys(stats.QUANTILES, 1 / 5000)
    for name, limit in limits.items():
        np.testing.assert_allclose(found[name], expected[name], atol=limit, rtol=0, err_msg=name)


def test_statistics_of_columns_are_those_that_lerobot_wrote() -> None:
    root = GOLDEN / "dataset_image"
    rows, expected = pd.read_parquet(root / "data"), read_json(root / "meta" / "stats.json")
    for key in ("observation.state", "action", "timestamp", "index"):
        found = stats.column_stats(np.stack(rows[key]))
        assert found["count"] == expected[key]["count"]
        for name in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(found[name], expected[key][name], rtol=1e-5, atol=1e-6, err_msg=f"{key} {name}")


@pytest.mark.parametrize("rows", [1, 2, 130, 50_001])
def test_statistics_of_columns_are_numpys_own_to_the_bit(rows: int) -> None:
    values = np.random.default_rng(rows).normal(size=(rows, 2)).astype(np.float32)
    found, whole = stats.column_stats(values), values.astype(np.float64)
    assert list(found) == list(stats.NAMES)
    assert found["count"] == [rows]
    for name in ("min", "max", "mean", "std"):
        assert found[name] == [float(getattr(column, name)()) for column in whole.T.copy()], name
    for name, q in stats.QUANTILES.items():
        assert found[name] == np.quantile(whole, q, axis=0).tolist(), name
    assert stats.column_stats(np.arange(rows))["max"] == [rows - 1]


def test_pooled_statistics_are_those_of_the_whole_and_quantiles_are_weighted_by_count() -> None:
    rng = np.random.default_rng(0)
    films = [rng.integers(low, 200 + low, (frames, 8, 8, 3), dtype=np.uint8) for low, frames in ((0, 3), (50, 5))]
    parts = [measure(film) for film in films]
    found, whole = stats.pooled(parts), measure(np.concatenate(films))
    assert found["count"] == [8]
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(found[name], whole[name], atol=1e-12, err_msg=name)
    np.testing.assert_allclose(found["q10"], (3 * np.array(parts[0]["q10"]) + 5 * np.array(parts[1]["q10"])) / 8)
