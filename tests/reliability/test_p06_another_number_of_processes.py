"""Another number of processes goes on with the same global batches, as long as the global batch stays as large."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.lerobot.dataset import Dataset
from common.lerobot.frame_cache import open_frames
from stage2_train.batches import BatchOrder, Recordings, Samples
from stage2_train.checkpoints.saving import numbered
from tests.conftest import GOLDEN
from tests.reliability.conftest import Stopped
from tests.reliability.harness import Warm
from tests.reliability.noted import notes
from tests.stage2_train.tiny import VALIDATED, finish, metrics, start, stderr, stopped_at


def test_one_process_goes_on_with_the_global_batches_of_two(
    warm: Warm, dataset: Path, stopped: Stopped, tmp_path: Path
) -> None:
    out = stopped_at(stopped.out, stopped.step, tmp_path / "out")
    args = ("training.batch_size=4", "training.save_freq=3")
    assert finish(start(warm, dataset, out, *args, module="tests.reliability.noted")) == [0], stderr(out)
    of_two = [one["rows"] + other["rows"] for one, other in zip(*stopped.whole, strict=True)]
    noise_of_two = [one["noise"] + other["noise"] for one, other in zip(*stopped.whole, strict=True)]
    assert [note["rows"] for note in notes(out)] == of_two[stopped.step :]
    assert [note["noise"] for note in notes(out)] == noise_of_two[stopped.step :]
    assert numbered(out)[-1][0] == 12


def test_two_processes_go_on_with_the_losses_of_one(warm: Warm, dataset: Path, whole: Path, tmp_path: Path) -> None:
    out = stopped_at(whole, 8, tmp_path / "out")
    assert finish(start(warm, dataset, out, *VALIDATED, "training.batch_size=2", world_size=2)) == [0, 0], stderr(out)
    before, after = (
        [row["loss"] for row in metrics(folder) if "loss" in row and row["step"] <= 9] for folder in (whole, out)
    )
    assert after[:2] == before[:2]
    # Step 9 has other dropout on the second process; the window's share of step 9 is a third.
    assert after[2] == pytest.approx(before[2], rel=0.3)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    dataset, cache = Dataset.open(GOLDEN / "dataset_image"), tmp_path_factory.mktemp("cache")
    return Samples(Recordings(dataset, open_frames(dataset, cache), cache), dataset.episodes, 10)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 30))
def test_however_a_global_batch_is_shared_it_is_the_same(
    samples: Samples, world_size: int, accumulation: int, batch_size: int, step: int
) -> None:
    alone = samples.batch(BatchOrder(7, batch_size * accumulation * world_size, 0, 1, 8), step)
    shares = (BatchOrder(7, batch_size, rank, world_size, 8, accumulation) for rank in range(world_size))
    parts = [samples.batch(plan, step, part) for plan in shares for part in range(accumulation)]
    assert np.concatenate([part.rows for part in parts]).tolist() == alone.rows.tolist()
    assert np.array_equal(np.concatenate([part.noise_BL for part in parts]), alone.noise_BL)
    assert {part.valid_count for part in parts} == {alone.valid_count} == {int((~alone.is_pad_BC).sum())}
