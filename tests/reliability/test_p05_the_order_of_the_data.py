"""The order of the data is exact: after a kill, each process resumes with the rows that would have been next."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.lerobot.frames import Rows
from stage2_train.batches import BatchOrder, ChunkDataset, epoch_permutation, global_batch_positions, load_batches
from tests.reliability.conftest import Resumed


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_resumes_with_the_rows_that_were_next(resumed: Resumed, rank: int) -> None:
    whole, before, after = (
        [draws["rows"] for draws in run[rank]] for run in (resumed.whole, resumed.before, resumed.after)
    )
    assert len(whole) == 12
    assert 0 < resumed.step < 12
    assert resumed.step <= len(before)
    assert before == whole[: len(before)]
    assert after == whole[resumed.step :]


def test_the_processes_together_see_every_sample_of_an_epoch_once(resumed: Resumed) -> None:
    rows = [row for both in zip(*resumed.whole, strict=True) for draws in both for row in draws["rows"]]
    assert sorted(rows[:31]) == list(range(31))
    assert len(rows) == 48


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_the_parts_of_an_accumulated_step_keep_their_order(samples: ChunkDataset, workers: int, rank: int) -> None:
    whole = BatchOrder(7, 2, rank, 2, 8, grad_accumulation=2)
    rows = [batch.rows.tolist() for batch in load_batches(samples, whole, 0, 9, 0)]
    first = [batch.rows.tolist() for batch in load_batches(samples, whole, 0, 4, workers)]
    then = [batch.rows.tolist() for batch in load_batches(samples, whole, 4, 9, workers)]
    assert first + then == rows
    assert len(rows) == 18


@st.composite
def orders(draw: st.DrawFn) -> tuple[BatchOrder, int, int]:
    """The order for one process, a number of samples, and a number of steps that reaches into a later epoch."""
    order = BatchOrder(draw(st.integers(0, 2**32)), draw(st.integers(1, 25)), 0, 1, latent_dim=1)
    n_samples = draw(st.integers(1, 60))
    return order, n_samples, -(-2 * n_samples // order.batch_size) + draw(st.integers(0, 3))


def sequence(order: BatchOrder, n_samples: int, steps: range) -> Rows:
    return np.concatenate([global_batch_positions(order, n_samples, step) for step in steps])


@given(orders())
def test_every_epoch_is_a_permutation_and_no_sample_is_lost_between_two(case: tuple[BatchOrder, int, int]) -> None:
    order, n_samples, steps = case
    seen = sequence(order, n_samples, range(steps))
    assert len(seen) == steps * order.global_batch
    *epochs, last = np.split(seen, range(n_samples, len(seen), n_samples))
    assert all(np.array_equal(np.sort(epoch), np.arange(n_samples)) for epoch in epochs)
    assert len(set(last)) == len(last)


@given(orders(), st.data())
def test_the_sequence_resumes_at_any_step(case: tuple[BatchOrder, int, int], data: st.DataObject) -> None:
    order, n_samples, steps = case
    whole, step = sequence(order, n_samples, range(steps)), data.draw(st.integers(0, steps - 1))
    epoch_permutation.cache_clear()  # a new process
    assert np.array_equal(sequence(order, n_samples, range(step, steps)), whole[step * order.global_batch :])
