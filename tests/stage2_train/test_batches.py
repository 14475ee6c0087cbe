"""Which samples form a batch is a function of seed and step; chunks never cross an episode."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import Tensor

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.lerobot.frame_cache import open_frames
from stage2_train.batches import Batch, BatchOrder, Recordings, Samples, batches, global_positions, split
from tests.conftest import GOLDEN


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    dataset = Dataset.open(GOLDEN / "dataset_image")
    return Samples(recordings(dataset, tmp_path_factory.mktemp("cache")), dataset.episodes, 10)


def recordings(dataset: Dataset, cache: Path) -> Recordings:
    return Recordings(dataset, open_frames(dataset, cache), cache)


def plan(batch_size: int = 4, seed: int = 7) -> BatchOrder:
    return BatchOrder(seed, batch_size, 0, 1, latent_dim=8)


def test_another_seed_or_epoch_gives_another_order() -> None:
    first = global_positions(plan(42), 42, 0)
    assert not np.array_equal(first, global_positions(plan(42), 42, 1))
    assert not np.array_equal(first, global_positions(plan(42, seed=8), 42, 0))


def test_samples_equal_what_lerobot_gives_its_trainer(samples: Samples) -> None:
    expected = load_file(GOLDEN / "dataset_image.expected.safetensors")
    by_row = {}
    for batch in batches(samples, plan(6), 0, 7, num_workers=1, pin=False):
        kept = batch.each(Tensor.clone)  # its images are overwritten by and by
        by_row.update({int(row): (kept, i) for i, row in enumerate(batch.rows)})
    for row in (0, 5, 12, 19, 20, 31, 41):
        batch, i = by_row[row]
        np.testing.assert_array_equal(batch.state_BS[i], expected[f"{row}/observation.state"])
        np.testing.assert_array_equal(batch.action_BCA[i], expected[f"{row}/action"])
        np.testing.assert_array_equal(batch.is_pad_BC[i], expected[f"{row}/action_is_pad"])
        np.testing.assert_array_equal(batch.images[0][i].permute(2, 0, 1), expected[f"{row}/image_u8_chw"])


def test_reader_threads_do_not_change_the_batches(samples: Samples) -> None:
    one = list(batches(samples, plan(), 2, 9, num_workers=0, pin=False))
    two = list(batches(samples, plan(), 2, 9, num_workers=3, pin=False))
    assert [b.rows.tolist() for b in one] == [b.rows.tolist() for b in two]
    assert all(np.array_equal(a.noise_BL, b.noise_BL) for a, b in zip(one, two, strict=True))


def test_a_reader_that_is_woken_does_not_take_the_processor_from_the_training(samples: Samples) -> None:
    ways = []

    class Watched(Samples):
        def batch(self, *args: Any, **kwargs: Any) -> Batch:
            ways.append(os.sched_getscheduler(0))
            return super().batch(*args, **kwargs)

    watched = Watched(samples.recordings, Dataset.open(GOLDEN / "dataset_image").episodes, 10)
    assert len(list(batches(watched, plan(), 0, 3, num_workers=2, pin=False))) == 3
    assert ways == [os.SCHED_BATCH] * 3
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_held_out_episodes_are_spread_and_disjoint() -> None:
    dataset = Dataset.open(GOLDEN / "dataset_image")
    train, held_out = split(dataset, None, 0.5)
    assert [e.number for e in train + held_out] == [0, 1]
    assert split(dataset, [1], 0.0)[0] == [dataset.episodes[1]]


@pytest.mark.parametrize(
    ("chosen", "fraction", "words"), [([2], 0.0, "names episode 2"), ([], 0.0, "no episode is left")]
)
def test_a_split_that_cannot_be_trained_is_refused(chosen: list[int], fraction: float, words: str) -> None:
    with pytest.raises(UserError, match=words):
        split(Dataset.open(GOLDEN / "dataset_image"), chosen, fraction)


def test_a_value_that_is_not_finite_is_refused_naming_episode_and_frame(image_dataset: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = image_dataset / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(path)
    actions = np.stack(table.column("action").to_pylist()).astype(np.float32)
    actions[25, 3] = np.nan
    place = table.schema.get_field_index("action")
    column = pa.FixedSizeListArray.from_arrays(actions.ravel(), 6)
    pq.write_table(table.set_column(place, table.schema.field(place), column), path)
    dataset = Dataset.open(image_dataset)
    with pytest.raises(UserError, match="action is not finite in episode 1, frame 5"):
        recordings(dataset, tmp_path / "cache")
