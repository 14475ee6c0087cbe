"""Another number of processes resumes with the same global batches, as long as the global batch keeps its size."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.act.runs import list_checkpoints
from stage2_train.batches import BatchOrder, ChunkDataset
from tests.reliability.conftest import Resumed
from tests.reliability.harness import Warm
from tests.reliability.recorded_training import read_draws
from tests.stage2_train.tiny import stopped_at, train_as


def test_one_process_resumes_with_the_global_batches_of_two(
    warm: Warm, dataset: Path, resumed: Resumed, tmp_path: Path
) -> None:
    out = stopped_at(resumed.out, resumed.step, tmp_path / "out")
    args = ("training.batch_size=4", "training.save_freq=3")
    train_as(1, warm, dataset, out, *args, module="tests.reliability.recorded_training")
    for key in ("rows", "noise"):
        of_two = [first[key] + second[key] for first, second in zip(*resumed.whole, strict=True)]
        assert [draws[key] for draws in read_draws(out)] == of_two[resumed.step :]
    assert list_checkpoints(out)[-1][0] == 12


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 30))
def test_however_a_global_batch_is_shared_it_is_the_same(
    samples: ChunkDataset, world_size: int, accumulation: int, batch_size: int, step: int
) -> None:
    alone = samples.batch(BatchOrder(7, batch_size * accumulation * world_size, 0, 1, 8), step)
    shares = (BatchOrder(7, batch_size, rank, world_size, 8, accumulation) for rank in range(world_size))
    parts = [samples.batch(order, step, part) for order in shares for part in range(accumulation)]
    assert np.concatenate([part.rows for part in parts]).tolist() == alone.rows.tolist()
    assert np.array_equal(np.concatenate([part.noise_BL for part in parts]), alone.noise_BL)
    assert {part.valid_count for part in parts} == {alone.valid_count} == {int((~alone.is_pad_BC).sum())}
