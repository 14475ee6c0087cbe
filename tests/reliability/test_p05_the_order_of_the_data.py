"""The order of the data is exact: killed and started again, each process sees the rows that it would have seen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.lerobot.dataset import Dataset
from common.lerobot.frame_cache import open_frames
from stage2_train.batches import BatchOrder, Recordings, Rows, Samples, batches, epoch_order, global_positions
from tests.conftest import GOLDEN
from tests.reliability.conftest import Stopped


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_goes_on_with_the_rows_that_were_next(stopped: Stopped, rank: int) -> None:
    whole, before, after = (
        [note["rows"] for note in of[rank]] for of in (stopped.whole, stopped.before, stopped.after)
    )
    assert len(whole) == 12
    assert 0 < stopped.step < 12
    assert stopped.step <= len(before)
    assert before == whole[: len(before)]
    assert after == whole[stopped.step :]


def test_the_processes_share_every_sample_of_an_epoch_once(stopped: Stopped) -> None:
    stream = [row for both in zip(*stopped.whole, strict=True) for note in both for row in note["rows"]]
    assert sorted(stream[:31]) == list(range(31))
    assert len(stream) == 48


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    dataset, cache = Dataset.open(GOLDEN / "dataset_image"), tmp_path_factory.mktemp("cache")
    return Samples(Recordings(dataset, open_frames(dataset, cache), cache), dataset.episodes, 10)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_parts_of_a_step_go_on_in_their_order_too(samples: Samples, workers: int, rank: int) -> None:
    whole = BatchOrder(7, 2, rank, 2, 8, accumulation=2)
    rows = [batch.rows.tolist() for batch in batches(samples, whole, 0, 9, 0, pin=False)]
    first = [batch.rows.tolist() for batch in batches(samples, whole, 0, 4, workers, pin=False)]
    then = [batch.rows.tolist() for batch in batches(samples, whole, 4, 9, workers, pin=False)]
    assert first + then == rows
    assert len(rows) == 18


@st.composite
def plans(draw: st.DrawFn) -> tuple[BatchOrder, int, int]:
    """A plan for one process, a number of samples, and a number of steps that reaches into a later epoch."""
    plan = BatchOrder(draw(st.integers(0, 2**32)), draw(st.integers(1, 25)), 0, 1, latent_dim=1)
    n_samples = draw(st.integers(1, 60))
    return plan, n_samples, -(-2 * n_samples // plan.batch_size) + draw(st.integers(0, 3))


def stream(plan: BatchOrder, n_samples: int, steps: range) -> Rows:
    return np.concatenate([global_positions(plan, n_samples, step) for step in steps])


@given(plans())
def test_every_epoch_is_a_permutation_of_its_own_and_none_leaves_a_seam(case: tuple[BatchOrder, int, int]) -> None:
    plan, n_samples, steps = case
    seen = stream(plan, n_samples, range(steps))
    assert len(seen) == steps * plan.global_batch
    *epochs, begun = np.split(seen, range(n_samples, len(seen), n_samples))
    assert all(np.array_equal(np.sort(epoch), np.arange(n_samples)) for epoch in epochs)
    assert len(set(begun)) == len(begun)


@given(plans(), st.data())
def test_it_goes_on_from_any_step_as_if_it_had_never_stopped(
    case: tuple[BatchOrder, int, int], data: st.DataObject
) -> None:
    plan, n_samples, steps = case
    whole, step = stream(plan, n_samples, range(steps)), data.draw(st.integers(0, steps - 1))
    epoch_order.cache_clear()  # a new process
    assert np.array_equal(stream(plan, n_samples, range(step, steps)), whole[step * plan.global_batch :])
