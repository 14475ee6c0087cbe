"""Predict the chunks of an episode from its recorded observations, and measure the latency.

Letters in array names: T frames of the episode, S chunks (each starts at a frame), C chunk steps, A action dimensions.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from common.cli.command import progress
from common.lerobot.dataset import Dataset
from common.lerobot.metadata import ENVIRONMENT, STATE, Episode, image_key
from common.policy import Policy
from stage3_eval.metrics.errors import Floats, Frames
from stage3_eval.metrics.scores import Prediction

Batch = dict[str, npt.NDArray[Any]]


def predict_open_loop(
    policy: Policy, dataset: Dataset, episode: Episode, rows: Mapping[str, Floats], batch_size: int, n_timed: int
) -> Prediction:
    """Predict a new chunk from every recorded frame, in batches; the executed action is the first step of each chunk.

    `n_timed` evenly spaced frames are predicted once more, one by one, and timed. `rows` holds the columns of the episode by
    name. The images of the next batch are decoded while the current one is predicted, never while a frame is timed. Raises
    UserError when an image is damaged.
    """
    timed = spread(episode.length, n_timed)
    latency_T_s = np.full(episode.length, np.nan)
    chunks = []
    for start, batch, next_batch in _prefetch(policy, dataset, episode, rows, batch_size):
        chunks.append(policy.predict_chunk(batch).numpy())
        timed_rows = timed[(timed >= start) & (timed < start + batch_size)] - start
        if len(timed_rows):
            wait([next_batch])
            policy.predict_chunk(_single(batch, timed_rows[0]))  # warm up caches and allocators for a batch of one
            latency_T_s[start + timed_rows] = [time_call(policy, _single(batch, row))[0] for row in timed_rows]
    chunk_TCA = np.concatenate(chunks)
    return Prediction(np.arange(episode.length), chunk_TCA, chunk_TCA[:, 0], latency_T_s)


def predict_queue(
    policy: Policy, dataset: Dataset, episode: Episode, rows: Mapping[str, Floats], batch_size: int, n_timed: int
) -> Prediction:
    """Select an action at every recorded frame, as a robot driver does: n_action_steps from a queue, or ensembling.

    A chunk holds the actions that were executed between two predictions; one that the end of the episode cuts short is
    padded with NaN. Only calls that predict are timed, `n_timed` of them evenly spaced; taking an action from the queue is
    not.
    """
    ensembles = policy.temporal_ensemble_coeff is not None
    start_S = np.arange(0, episode.length, 1 if ensembles else policy.n_action_steps)
    timed = set(start_S[spread(len(start_S), n_timed)].tolist())
    latency_T_s = np.full(episode.length, np.nan)
    actions = []
    policy.reset()
    for start, batch, next_batch in _prefetch(policy, dataset, episode, rows, batch_size):
        for row in range(len(batch[STATE])):
            observation = _single(batch, row)
            if policy.predicts_next and start + row in timed:
                wait([next_batch])
                latency_T_s[start + row], action_1A = time_call(policy, observation, policy.select_action)
            else:
                action_1A = policy.select_action(observation)
            actions.append(action_1A.numpy())
    executed_TA = np.concatenate(actions)
    n_steps = 1 if ensembles else policy.n_action_steps
    missing = len(start_S) * n_steps - len(executed_TA)
    chunk_SCA = np.pad(executed_TA, ((0, missing), (0, 0)), constant_values=np.nan).reshape(len(start_S), n_steps, -1)
    return Prediction(start_S, chunk_SCA, executed_TA, latency_T_s)


def observations(
    policy: Policy, dataset: Dataset, episode: Episode, rows: Mapping[str, Floats], batch_size: int
) -> Iterator[Batch]:
    """Yield the observations of the episode in batches, as the policy takes them; only its own cameras are decoded."""
    used = {image_key(camera) for camera in policy.cameras}
    renamed = policy.checkpoint.rename_map
    streams = {
        image_key(camera): dataset.images(episode, camera)
        for camera in dataset.cameras
        if renamed.get(image_key(camera), image_key(camera)) in used
    }
    keys = [key for key in (STATE, ENVIRONMENT) if key in rows]
    for start in range(0, episode.length, batch_size):
        batch = {key: rows[key][start : start + batch_size].astype(np.float32) for key in keys}
        yield batch | {key: np.stack(list(islice(stream, batch_size))) for key, stream in streams.items()}


def time_first_call(policy: Policy, dataset: Dataset, episode: Episode, rows: Mapping[str, Floats]) -> float:
    """Return the seconds of the first prediction of this process, which a robot waits for once, at its start."""
    return time_call(policy, next(observations(policy, dataset, episode, rows, batch_size=1)))[0]


def time_call(
    policy: Policy, observation: Batch, call: Callable[[Batch], torch.Tensor] | None = None
) -> tuple[float, torch.Tensor]:
    """Return the seconds from an observation in host memory to the action in host memory, and the action."""
    if policy.device.type == "cuda":
        torch.cuda.synchronize(policy.device)  # nothing from before is waited for
    started = time.perf_counter()
    action = (call or policy.predict_chunk)(observation)  # its copy to the host waits for the device
    return time.perf_counter() - started, action


def spread(length: int, count: int) -> Frames:
    """Return at most `count` different frames of 0 ... length-1, evenly spaced, with the first and the last."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(np.int64)


def _prefetch(
    policy: Policy, dataset: Dataset, episode: Episode, rows: Mapping[str, Floats], batch_size: int
) -> Iterator[tuple[int, Batch, "Future[Batch]"]]:
    """Yield the first frame of each batch, the batch, and the next one, which is decoded in another thread."""
    batches = observations(policy, dataset, episode, rows, batch_size)
    starts = range(0, episode.length, batch_size)
    with ThreadPoolExecutor(max_workers=1) as decoder:
        next_batch: Future[Batch] = decoder.submit(next, batches, {})
        for start in progress(starts, len(starts), f"episode {episode.number}", "batch"):
            batch = next_batch.result()
            next_batch = decoder.submit(next, batches, {})
            yield start, batch, next_batch


def _single(batch: Batch, row: int) -> Batch:
    return {key: value[row : row + 1] for key, value in batch.items()}
