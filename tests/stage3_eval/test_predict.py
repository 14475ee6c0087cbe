"""Every frame gets its own chunk, the same for any batch size; only the requested frames are timed."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from common.lerobot.dataset import Dataset
from common.lerobot.metadata import ACTION, STATE
from common.policy import Policy
from stage3_eval.predict import predict_open_loop, predict_queue, spread, time_first_call
from tests.conftest import GOLDEN


def rows_of(dataset: Dataset, episode: int) -> dict[str, npt.NDArray[Any]]:
    rows = slice(dataset.episodes[episode].start, dataset.episodes[episode].stop)
    return {key: values[rows] for key, values in dataset.columns([STATE, ACTION]).items()}


@pytest.mark.parametrize("kind", ["image", "video"])
def test_batches_give_the_same_chunks_as_single_frames(kind: str, checkpoint: Path) -> None:
    dataset, policy = Dataset.open(GOLDEN / f"dataset_{kind}"), Policy.load(checkpoint)
    rows, episode = rows_of(dataset, 1), dataset.episodes[1]
    prediction = predict_open_loop(policy, dataset, episode, rows, batch_size=8, n_timed=0)
    batched = prediction.chunk_SCA
    assert np.array_equal(prediction.executed_TA, batched[:, 0])
    assert batched.shape == (22, 10, 6)
    assert batched.dtype == np.float32
    for t, image in enumerate(dataset.images(episode, "color")):
        single = policy.predict_chunk({STATE: rows[STATE][t : t + 1], "observation.images.color": image[None]})
        np.testing.assert_allclose(batched[t], single[0], atol=1e-5, rtol=0)


def test_exactly_the_requested_frames_are_timed(checkpoint: Path) -> None:
    dataset, policy = Dataset.open(GOLDEN / "dataset_image"), Policy.load(checkpoint)
    rows = rows_of(dataset, 0)
    latency_T_s = predict_open_loop(policy, dataset, dataset.episodes[0], rows, batch_size=8, n_timed=3).latency_T_s
    assert np.flatnonzero(np.isfinite(latency_T_s)).tolist() == spread(20, 3).tolist()
    assert (latency_T_s[np.isfinite(latency_T_s)] > 0).all()
    assert time_first_call(policy, dataset, dataset.episodes[0], rows) > 0


@pytest.mark.parametrize(
    ("length", "count", "frames"),
    [(20, 3, [0, 10, 19]), (3, 50, [0, 1, 2]), (5, 0, []), (1, 4, [0]), (7, 1, [0])],
)
def test_timed_frames_are_evenly_spaced(length: int, count: int, frames: list[int]) -> None:
    assert spread(length, count).tolist() == frames


@pytest.mark.parametrize(("n_action_steps", "coeff"), [(4, None), (10, None), (1, 0.01)])
def test_the_queue_is_used_as_on_the_robot(
    n_action_steps: int, coeff: float | None, checkpoint: Path, tmp_path: Path
) -> None:
    dataset, policy, driver = Dataset.open(GOLDEN / "dataset_image"), Policy.load(checkpoint), Policy.load(checkpoint)
    for instance in (policy, driver):
        instance.n_action_steps, instance.temporal_ensemble_coeff = n_action_steps, coeff
    rows, episode = rows_of(dataset, 1), dataset.episodes[1]
    prediction = predict_queue(policy, dataset, episode, rows, batch_size=8, n_timed=2)
    for t, image in enumerate(dataset.images(episode, "color")):
        observation = {STATE: rows[STATE][t : t + 1], "observation.images.color": image[None]}
        assert np.array_equal(prediction.executed_TA[t : t + 1], driver.select_action(observation).numpy())
    assert prediction.start_S.tolist() == list(range(0, 22, n_action_steps))
    assert prediction.chunk_SCA.shape == (len(prediction.start_S), n_action_steps, 6)
    in_a_row = prediction.chunk_SCA.reshape(-1, 6)
    assert np.array_equal(in_a_row[:22], prediction.executed_TA)
    assert np.isnan(in_a_row[22:]).all()
    timed = np.flatnonzero(np.isfinite(prediction.latency_T_s)).tolist()
    assert timed == [0, prediction.start_S[-1]]  # only frames that predict, never one that pops the queue
