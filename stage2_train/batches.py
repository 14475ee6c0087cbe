"""A dataset in, training batches out: the order is a function of (seed, epoch), the pictures come from a memory map.

Shapes: B samples of this rank, C steps of a chunk, S state and A action dimensions, L latent dimensions.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.command import UserError
from common.dataset import ACTION, STATE, Dataset, Episode
from common.frames import open_frames

Rows = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """One rank's part of a global batch, in robot units."""

    state_BS: Tensor
    pictures: list[Tensor]  # one (B, H, W, 3) uint8 a camera
    action_BCA: Tensor
    is_pad_BC: Tensor  # True after the end of the episode, where the last action is repeated
    noise_BL: Tensor  # the VAE's
    valid_count: int  # steps of the global batch that are not padding
    rows: Rows

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with every tensor changed, for example moved to a device."""
        return self._replace(
            state_BS=change(self.state_BS),
            pictures=[change(picture) for picture in self.pictures],
            action_BCA=change(self.action_BCA),
            is_pad_BC=change(self.is_pad_BC),
            noise_BL=change(self.noise_BL),
        )


@dataclass(frozen=True)
class Plan:
    """Which rows make up each batch: nothing but a function of these numbers and the step."""

    seed: int
    batch_size: int  # per rank
    rank: int
    world_size: int
    latent_dim: int

    @property
    def global_batch(self) -> int:
        """Samples per step over all ranks."""
        return self.batch_size * self.world_size


def global_positions(plan: Plan, n_samples: int, step: int) -> Rows:
    """Return which samples (0 .. n_samples-1) form the global batch of `step`, (global_batch,).

    Epochs follow each other without a seam, each a permutation of its own, so every sample is seen once before any is seen
    twice and the sequence does not depend on how many ranks share it.
    """
    first = step * plan.global_batch
    wanted = np.arange(first, first + plan.global_batch)
    epochs = {epoch: epoch_order(plan.seed, int(epoch), n_samples) for epoch in np.unique(wanted // n_samples)}
    return np.array([epochs[i // n_samples][i % n_samples] for i in wanted], np.int64)


@lru_cache(maxsize=4)  # a step needs two at most, and reader threads may be an epoch apart
def epoch_order(seed: int, epoch: int, n_samples: int) -> Rows:
    """Return the permutation of all samples that makes up one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n_samples)


def step_seed(*parts: int) -> int:
    """Mix numbers such as (seed, step) into one seed, so that nothing random has to be stored."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class Samples:
    """The frames of the chosen episodes, each the start of an action chunk."""

    def __init__(self, dataset: Dataset, episodes: Sequence[Episode], chunk_size: int, cache_dir: Path) -> None:
        """Open columns and decoded pictures; raises UserError where a value is not finite, naming episode and frame."""
        columns = dataset.columns([STATE, ACTION], cache_dir)
        self.state_NS, self.action_NA = columns[STATE], columns[ACTION]
        for key, values in columns.items():
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if bad.size:
                episode = next(e for e in dataset.episodes if e.start <= bad[0] < e.stop)
                raise UserError(
                    f"{dataset.root}: {key} is not finite in episode {episode.number}, frame {bad[0] - episode.start}"
                )
        self.frames = open_frames(dataset, cache_dir)
        self.chunk_size = chunk_size
        self.rows = np.concatenate([np.arange(e.start, e.stop) for e in episodes])
        self.stops = np.concatenate([np.full(e.length, e.stop) for e in episodes])

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, plan: Plan, step: int) -> Batch:
        """Gather this rank's part of the global batch of `step`."""
        positions = global_positions(plan, len(self), step)
        valid_count = int(np.minimum(self.stops - self.rows, self.chunk_size)[positions].sum())
        mine = positions[plan.rank * plan.batch_size : (plan.rank + 1) * plan.batch_size]
        rows, stops = self.rows[mine], self.stops[mine]
        steps_BC = rows[:, None] + np.arange(self.chunk_size)
        generator = torch.Generator().manual_seed(step_seed(plan.seed, step))
        noise = torch.randn(plan.global_batch, plan.latent_dim, generator=generator)
        return Batch(
            state_BS=torch.from_numpy(self.state_NS[rows]),
            pictures=[torch.from_numpy(np.take(frames, rows, axis=0)) for frames in self.frames.values()],
            action_BCA=torch.from_numpy(self.action_NA[np.minimum(steps_BC, stops[:, None] - 1)]),
            is_pad_BC=torch.from_numpy(steps_BC >= stops[:, None]),
            noise_BL=noise[plan.rank * plan.batch_size : (plan.rank + 1) * plan.batch_size],
            valid_count=valid_count,
            rows=rows,
        )


def batches(samples: Samples, plan: Plan, first_step: int, steps: int, num_workers: int, pin: bool) -> Iterator[Batch]:
    """Yield the batches of steps first_step .. steps-1, gathered ahead by `num_workers` threads.

    Threads, not processes: copying from the map leaves Python's lock, and a container's /dev/shm may hold only 64 MB.
    """

    def gather(step: int) -> Batch:
        batch = samples.batch(plan, step)
        return batch.each(Tensor.pin_memory) if pin else batch

    if num_workers == 0:
        yield from map(gather, range(first_step, steps))
        return
    with ThreadPoolExecutor(num_workers) as pool:
        ahead: deque[Future[Batch]] = deque()
        for step in range(first_step, steps):
            while len(ahead) < num_workers + 1 and step + len(ahead) < steps:
                ahead.append(pool.submit(gather, step + len(ahead)))
            yield ahead.popleft().result()


def split(dataset: Dataset, chosen: Sequence[int] | None, val_fraction: float) -> tuple[list[Episode], list[Episode]]:
    """Return (training, held-out) episodes; held-out ones are evenly spaced, whatever the seed.

    Raises UserError when an episode does not exist or none is left to train on.
    """
    for number in chosen or ():
        if number >= len(dataset.episodes):
            raise UserError(
                f"data.episodes names episode {number}; {dataset.root} has 0 to {len(dataset.episodes) - 1}"
            )
    pool = (
        [dataset.episodes[number] for number in sorted(set(chosen))] if chosen is not None else list(dataset.episodes)
    )
    count = round(len(pool) * val_fraction)
    held_out = {int((i + 0.5) * len(pool) / count) for i in range(count)}
    train = [episode for i, episode in enumerate(pool) if i not in held_out]
    if not train:
        raise UserError(f"no episode is left to train on: {len(pool)} chosen, {count} of them held out")
    return train, [episode for i, episode in enumerate(pool) if i in held_out]
