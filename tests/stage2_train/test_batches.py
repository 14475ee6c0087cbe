"""Which samples form a batch is a function of seed and step; chunks never cross an episode."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import Tensor

from common.command import UserError
from common.dataset import Dataset
from common.frames import open_frames
from stage2_train.batches import Plan, Recordings, Samples, batches, global_positions, split, step_seed
from tests.conftest import GOLDEN


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    dataset = Dataset.open(GOLDEN / "dataset_image")
    return Samples(recordings(dataset, tmp_path_factory.mktemp("cache")), dataset.episodes, 10)


def recordings(dataset: Dataset, cache: Path) -> Recordings:
    return Recordings(dataset, open_frames(dataset, cache), cache)


def plan(batch_size: int = 4, rank: int = 0, world_size: int = 1, seed: int = 7) -> Plan:
    return Plan(seed, batch_size, rank, world_size, latent_dim=8)


@given(st.integers(1, 60), st.integers(1, 25), st.integers(0, 5))
def test_every_sample_comes_once_before_any_comes_twice(n_samples: int, batch: int, seed: int) -> None:
    steps = -(-n_samples // batch)
    stream = np.concatenate([global_positions(plan(batch, seed=seed), n_samples, step) for step in range(steps)])
    assert sorted(stream[:n_samples]) == list(range(n_samples))


@given(st.integers(0, 30))
def test_two_ranks_share_the_batch_that_one_would_take_alone(step: int) -> None:
    alone = global_positions(plan(4), 42, step)
    together = global_positions(plan(2, rank=1, world_size=2), 42, step)
    assert np.array_equal(alone, together)


def test_each_rank_gets_its_own_slice_of_rows_and_of_noise(samples: Samples) -> None:
    whole = samples.batch(plan(4), 3)
    parts = [samples.batch(plan(2, rank, 2), 3) for rank in (0, 1)]
    assert np.array_equal(np.concatenate([part.rows for part in parts]), whole.rows)
    noise = np.concatenate([part.noise_BL.numpy() for part in parts])
    assert np.array_equal(noise, whole.noise_BL.numpy())
    assert {part.valid_count for part in parts} == {whole.valid_count}
    assert whole.valid_count == int((~whole.is_pad_BC).sum())


def test_another_seed_or_epoch_gives_another_order() -> None:
    first = global_positions(plan(42), 42, 0)
    assert not np.array_equal(first, global_positions(plan(42), 42, 1))
    assert not np.array_equal(first, global_positions(plan(42, seed=8), 42, 0))


def test_samples_equal_what_lerobot_gives_its_trainer(samples: Samples) -> None:
    expected = load_file(GOLDEN / "dataset_image.expected.safetensors")
    by_row = {}
    for batch in batches(samples, plan(6), 0, 7, num_workers=1, pin=False):
        kept = batch.each(Tensor.clone)  # its pictures are overwritten by and by
        by_row.update({int(row): (kept, i) for i, row in enumerate(batch.rows)})
    for row in (0, 5, 12, 19, 20, 31, 41):
        batch, i = by_row[row]
        np.testing.assert_array_equal(batch.state_BS[i], expected[f"{row}/observation.state"])
        np.testing.assert_array_equal(batch.action_BCA[i], expected[f"{row}/action"])
        np.testing.assert_array_equal(batch.is_pad_BC[i], expected[f"{row}/action_is_pad"])
        np.testing.assert_array_equal(batch.pictures[0][i].permute(2, 0, 1), expected[f"{row}/image_u8_chw"])


def test_reader_threads_do_not_change_the_batches(samples: Samples) -> None:
    one = list(batches(samples, plan(), 2, 9, num_workers=0, pin=False))
    two = list(batches(samples, plan(), 2, 9, num_workers=3, pin=False))
    assert [b.rows.tolist() for b in one] == [b.rows.tolist() for b in two]
    assert all(np.array_equal(a.noise_BL, b.noise_BL) for a, b in zip(one, two, strict=True))


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


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_the_order_goes_on_across_a_stop_as_if_there_had_been_none(samples: Samples, workers: int, rank: int) -> None:
    whole = Plan(7, 2, rank, 2, 8, accumulation=2)
    rows = [batch.rows.tolist() for batch in batches(samples, whole, 0, 9, 0, pin=False)]
    first = [batch.rows.tolist() for batch in batches(samples, whole, 0, 4, workers, pin=False)]
    then = [batch.rows.tolist() for batch in batches(samples, whole, 4, 9, workers, pin=False)]
    assert first + then == rows
    assert len(rows) == 18


def test_other_processes_shares_and_steps_have_dropout_of_their_own() -> None:
    seeds = {step_seed(1000, rank, step) for rank in range(8) for step in range(200)}
    assert len(seeds) == 1600


def test_parts_of_a_step_are_the_slices_of_its_global_batch(samples: Samples) -> None:
    alone = samples.batch(plan(8), 3)
    parts = [samples.batch(Plan(7, 2, rank, 2, 8, accumulation=2), 3, part) for rank in (0, 1) for part in (0, 1)]
    assert np.concatenate([part.rows for part in parts]).tolist() == alone.rows.tolist()
    assert np.array_equal(np.concatenate([part.noise_BL for part in parts]), alone.noise_BL)
    assert {part.valid_count for part in parts} == {alone.valid_count}
