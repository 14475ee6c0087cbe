"""A policy and an episode's recorded observations in, a fresh chunk for every frame and honest latencies out.

Letters in array names: T frames of the episode, C chunk steps, A action dimensions.
"""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from common.checkpoint import ENVIRONMENT
from common.command import progress
from common.dataset import STATE, Dataset, Episode, picture_key
from common.policy import Policy

Batch = dict[str, npt.NDArray[Any]]


def predict_episode(
    policy: Policy,
    dataset: Dataset,
    episode: Episode,
    rows: Mapping[str, npt.NDArray[Any]],
    batch_size: int,
    n_timed: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return chunk_TCA, predicted from every recorded frame in batches, in robot units, and latency_T_s.

    `n_timed` evenly spread frames are predicted once more, one by one, and timed; the others' latency is NaN. `rows` holds
    the episode's columns by their names in the dataset. The next batch's pictures are decoded while the present one is
    predicted, never while a frame is timed. Raises UserError when a picture is damaged.
    """
    batches = _batches(policy, dataset, episode, rows, batch_size)
    timed = spread(episode.length, n_timed)
    latency_T_s = np.full(episode.length, np.nan)
    chunks = []
    starts = range(0, episode.length, batch_size)
    with ThreadPoolExecutor(max_workers=1) as decoder:
        following: Future[Batch] = decoder.submit(next, batches, {})
        for start in progress(starts, len(starts), f"episode {episode.number}", "batch"):
            batch = following.result()
            following = decoder.submit(next, batches, {})
            chunks.append(policy.predict_chunk(batch).numpy())
            due = timed[(timed >= start) & (timed < start + batch_size)] - start
            if len(due):
                wait([following])
                latency_T_s[start + due] = _time_frames(policy, batch, due)
    return np.concatenate(chunks), latency_T_s


def time_first_call(policy: Policy, dataset: Dataset, episode: Episode, rows: Mapping[str, npt.NDArray[Any]]) -> float:
    """Return the seconds of this process's first prediction, cold: what a robot waits for once, at its start."""
    return _time_call(policy, next(_batches(policy, dataset, episode, rows, batch_size=1)))


def spread(length: int, count: int) -> npt.NDArray[np.int64]:
    """Return at most `count` different frames of 0 ... length-1, evenly spread, the first and the last among them."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(np.int64)


def _batches(
    policy: Policy, dataset: Dataset, episode: Episode, rows: Mapping[str, npt.NDArray[Any]], batch_size: int
) -> Iterator[Batch]:
    wanted = {picture_key(camera) for camera in policy.cameras}
    renamed = policy.checkpoint.rename_map
    streams = {
        picture_key(camera): dataset.pictures(episode, camera)
        for camera in dataset.cameras
        if renamed.get(picture_key(camera), picture_key(camera)) in wanted
    }
    keys = [key for key in (STATE, ENVIRONMENT) if key in rows]
    for start in range(0, episode.length, batch_size):
        batch = {key: rows[key][start : start + batch_size].astype(np.float32) for key in keys}
        yield batch | {key: np.stack(list(islice(stream, batch_size))) for key, stream in streams.items()}


def _time_frames(policy: Policy, batch: Batch, due: npt.NDArray[np.int64]) -> list[float]:
    singles = [{key: value[row : row + 1] for key, value in batch.items()} for row in due]
    policy.predict_chunk(singles[0])  # caches and allocators come from a batch: settle them on one frame first
    return [_time_call(policy, single) for single in singles]


def _time_call(policy: Policy, observation: Batch) -> float:
    _synchronise(policy.device)
    start = time.perf_counter()
    policy.predict_chunk(observation)
    _synchronise(policy.device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
