"""Statistics against numpy over all values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.lerobot.images import Image
from stage1_convert.dataset import stats

images = st.integers(1, 4).flatmap(
    lambda n: arrays(np.uint8, (n, 5, 7, 3), elements=st.sampled_from([0, 1, 7, 128, 254, 255]))
)


@settings(deadline=None)
@given(images)
def test_image_statistics_from_tallies_equal_those_over_all_pixels(batch: Image) -> None:
    found = stats.image_stats(np.sum([stats.tally(image) for image in batch], axis=0), len(batch))
    pixels = batch.reshape(-1, 3) / 255
    assert found["count"] == [len(batch)]
    expected = {"min": pixels.min(0), "max": pixels.max(0), "mean": pixels.mean(0), "std": pixels.std(0)}
    for name, values in expected.items():
        np.testing.assert_allclose(np.ravel(found[name]), values, atol=1e-12)
    for name, q in stats.QUANTILES.items():
        np.testing.assert_allclose(np.ravel(found[name]), np.quantile(pixels, q, axis=0), atol=1e-12)


def test_of_large_images_only_the_quantiles_are_estimated_from_some_rows() -> None:
    rng = np.random.default_rng(0)
    batch = np.clip(rng.normal(100, 20, (30, 480, 64, 3)), 20, 180).astype(np.uint8)
    batch[1, 3, 5], batch[2, 477, 9] = 0, 255  # in rows that are not counted
    tallies = [stats.tally(image, turn) for turn, image in enumerate(batch)]
    found = stats.image_stats(np.sum(tallies, axis=0), len(batch))
    pixels = batch.reshape(-1, 3) / 255
    expected = {"min": pixels.min(0), "max": pixels.max(0), "mean": pixels.mean(0), "std": pixels.std(0)}
    for name, values in expected.items():
        np.testing.assert_allclose(np.ravel(found[name]), values, atol=1e-12)
    for name, q in stats.QUANTILES.items():
        np.testing.assert_allclose(np.ravel(found[name]), np.quantile(pixels, q, axis=0), atol=2 / 255)


def test_vector_statistics_have_a_value_for_each_dimension() -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    found = stats.vector_stats(values)
    assert list(found) == list(stats.NAMES)
    assert found["mean"] == [4.5, 5.5, 6.5]
    assert found["count"] == [4]
    assert found["q50"] == [4.5, 5.5, 6.5]


def test_scalar_columns_have_one_value() -> None:
    assert stats.vector_stats(np.arange(5))["max"] == [4.0]


def test_every_row_of_a_large_image_has_its_turn() -> None:
    stripes = np.repeat(np.arange(240, dtype=np.uint8)[:, None, None], 3, axis=2)  # a value of its own in each row
    turns = range(240 // stats.QUANTILE_ROWS)
    counts = np.sum([stats.tally(np.tile(stripes, (1, 8, 1)), turn) for turn in turns], axis=0)
    assert (counts[:, :240] == 8).all()


@pytest.mark.parametrize("rows", [1, 2, 127, 130, 4096, 50_001])
def test_statistics_of_columns_are_numpys_own_to_the_bit(rows: int) -> None:
    values = np.random.default_rng(rows).normal(size=(rows, 2)).astype(np.float32)
    found, whole = stats.vector_stats(values), values.astype(np.float64)
    for name in ("min", "max", "mean", "std"):
        assert found[name] == [float(getattr(column, name)()) for column in whole.T.copy()], name
    for name, q in stats.QUANTILES.items():
        assert found[name] == np.quantile(whole, q, axis=0).tolist(), name
