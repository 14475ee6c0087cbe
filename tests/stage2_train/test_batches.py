"""Batches: their order is a function of seed and step, and chunks never cross the end of an episode."""

import os
from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from stage2_train.batches import (
    Batch,
    BatchOrder,
    ChunkDataset,
    DeviceCopies,
    global_batch_positions,
    load_batches,
    split_episodes,
)
from tests.common.lerobot.foreign import change_cells
from tests.conftest import GOLDEN
from tests.stage2_train.tiny import open_store


def order(batch_size: int = 4, seed: int = 7) -> BatchOrder:
    return BatchOrder(seed, batch_size, 0, 1, latent_dim=8)


def test_another_seed_or_epoch_gives_another_order() -> None:
    first = global_batch_positions(order(42), 42, 0)
    assert not np.array_equal(first, global_batch_positions(order(42), 42, 1))
    assert not np.array_equal(first, global_batch_positions(order(42, seed=8), 42, 0))


def test_samples_equal_those_of_lerobots_dataset(samples: ChunkDataset) -> None:
    expected = load_file(GOLDEN / "dataset_image.expected.safetensors")
    by_row = {}
    for batch in load_batches(samples, order(6), 0, 7, num_workers=1):
        kept = batch._replace(images=[image.clone() for image in batch.images])  # the buffers are reused
        by_row.update({int(row): (kept, i) for i, row in enumerate(batch.rows)})
    for row in (0, 5, 12, 19, 20, 31, 41):
        batch, i = by_row[row]
        np.testing.assert_array_equal(batch.state_BS[i], expected[f"{row}/observation.state"])
        np.testing.assert_array_equal(batch.action_BCA[i], expected[f"{row}/action"])
        np.testing.assert_array_equal(batch.is_pad_BC[i], expected[f"{row}/action_is_pad"])
        np.testing.assert_array_equal(batch.images[0][i].permute(2, 0, 1), expected[f"{row}/image_u8_chw"])


def test_the_number_of_loader_threads_does_not_change_the_batches(samples: ChunkDataset) -> None:
    none, three = (list(load_batches(samples, order(), 2, 9, workers)) for workers in (0, 3))
    assert [batch.rows.tolist() for batch in none] == [batch.rows.tolist() for batch in three]
    assert all(np.array_equal(a.noise_BL, b.noise_BL) for a, b in zip(none, three, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_batch_stays_as_it_is_while_the_next_ones_are_prepared(samples: ChunkDataset, workers: int) -> None:
    gathered = Semaphore(0)

    class Counted(ChunkDataset):
        def batch(self, *args: Any, **kwargs: Any) -> Batch:
            batch = super().batch(*args, **kwargs)
            gathered.release()
            return batch

    counted = Counted(samples.store, Dataset.open(GOLDEN / "dataset_image").episodes, 10)
    for step, batch in enumerate(load_batches(counted, order(), 0, 12, workers)):
        ahead = workers + 1 if step == 0 else 1 if step + workers < 12 else 0
        for _ in range(ahead):  # everything that may be prepared before the next batch is asked for
            gathered.acquire()
        assert torch.equal(batch.images[0], samples.batch(order(), step).images[0])


@pytest.mark.parametrize("slots", [1, 3])
def test_a_copy_keeps_its_place_until_its_slot_is_used_again(samples: ChunkDataset, slots: int) -> None:
    copies, buffer = DeviceCopies(torch.device("cpu"), slots), samples.store.image_buffers(4)
    kept: list[tuple[Batch, Batch]] = []
    for step in range(8):
        copies.wait_for_buffer(step % slots)
        batch = samples.batch(order(), step, images=buffer)
        kept = [*kept, (copies.put(step % slots, batch), samples.batch(order(), step))][-slots:]
        buffer[0].zero_()
        for copied, original in kept:
            assert copied.valid_count == original.valid_count
            assert np.array_equal(copied.rows, original.rows)
            assert all(map(torch.equal, copied.tensors(), original.tensors()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="streams and pinned memory need a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_busy_cuda_device_are_those_on_the_cpu(samples: ChunkDataset, workers: int) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    busy, sums = torch.randn(4096, 4096, device=device), []
    for batch in load_batches(samples, order(), 0, 20, workers, device):
        for _ in range(20):  # the host and the copies run ahead of the device
            busy = (busy @ busy).tanh_()
        sums.append(torch.stack([tensor.double().sum() for tensor in batch.tensors()]))
    for step, found in enumerate(sums):
        expected = torch.stack([tensor.double().sum() for tensor in samples.batch(order(), step).tensors()])
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-12, atol=1e-9)


def test_loader_threads_do_not_preempt_the_training(samples: ChunkDataset) -> None:
    policies = []

    class Recorded(ChunkDataset):
        def batch(self, *args: Any, **kwargs: Any) -> Batch:
            policies.append(os.sched_getscheduler(0))
            return super().batch(*args, **kwargs)

    recorded = Recorded(samples.store, Dataset.open(GOLDEN / "dataset_image").episodes, 10)
    assert len(list(load_batches(recorded, order(), 0, 3, num_workers=2))) == 3
    assert policies == [os.SCHED_BATCH] * 3
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_held_out_episodes_are_spread_and_disjoint() -> None:
    dataset = Dataset.open(GOLDEN / "dataset_image")
    train, held_out = split_episodes(dataset, None, 0.5)
    assert [episode.number for episode in train + held_out] == [0, 1]
    assert split_episodes(dataset, [1], 0.0)[0] == [dataset.episodes[1]]


@pytest.mark.parametrize(
    ("chosen", "fraction", "message"),
    [([2], 0.0, "names episode 2"), ([], 0.0, "choose more by data.episodes"), ([1], 0.9, "lower data.val_fraction")],
)
def test_a_split_without_training_episodes_is_refused(chosen: list[int], fraction: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_episodes(Dataset.open(GOLDEN / "dataset_image"), chosen, fraction)


def test_a_value_that_is_not_finite_is_refused_naming_episode_and_frame(image_dataset: Path, tmp_path: Path) -> None:
    change_cells(image_dataset, "action", lambda cells: cells[25].__setitem__(3, np.nan))
    with pytest.raises(UserError, match="action is not finite in episode 1, frame 5"):
        open_store(Dataset.open(image_dataset), tmp_path / "cache")
