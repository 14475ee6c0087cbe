"""A dataset in, training batches out: the order is a function of (seed, epoch), the images come from a memory map.

Shapes: B samples of this rank, C steps of a chunk, S state, E environment and A action dimensions, L latent dimensions,
P chances that an augmentation takes, N frames of the dataset.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.act.checkpoint import ENVIRONMENT
from common.cli.command import UserError
from common.lerobot.dataset import ACTION, STATE, Dataset, Episode
from common.lerobot.frame_cache import Frames

Rows = npt.NDArray[np.int64]
CHANCES = 6  # random numbers a sample's augmentation takes


class Batch(NamedTuple):
    """One rank's part of a global batch, in robot units."""

    state_BS: Tensor
    environment_BE: Tensor | None
    images: list[Tensor]  # one (B, H, W, 3) uint8 a camera
    action_BCA: Tensor
    is_pad_BC: Tensor  # True after the end of the episode, where the last action is repeated
    noise_BL: Tensor  # the VAE's
    chance_BP: Tensor | None  # the augmentation's, in -1..1
    valid_count: int  # steps of the global batch that are not padding
    rows: Rows

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with every tensor changed, for example moved to a device."""
        return self._replace(
            state_BS=change(self.state_BS),
            environment_BE=None if self.environment_BE is None else change(self.environment_BE),
            images=[change(image) for image in self.images],
            action_BCA=change(self.action_BCA),
            is_pad_BC=change(self.is_pad_BC),
            noise_BL=change(self.noise_BL),
            chance_BP=None if self.chance_BP is None else change(self.chance_BP),
        )


@dataclass(frozen=True)
class BatchOrder:
    """Which rows make up each batch: nothing but a function of these numbers and the step."""

    seed: int
    batch_size: int  # at once, on each rank
    rank: int
    world_size: int
    latent_dim: int
    accumulation: int = 1  # batches of each rank that make up its part of the global batch
    augment: bool = False

    @property
    def global_batch(self) -> int:
        """Samples per step over all ranks."""
        return self.batch_size * self.world_size * self.accumulation


def global_positions(plan: BatchOrder, n_samples: int, step: int) -> Rows:
    """Return which samples (0 .. n_samples-1) form the global batch of `step`, (global_batch,).

    Epochs follow each other without a seam, each a permutation of its own, so every sample is seen once before any is seen
    twice and the sequence does not depend on how many ranks share it.
    """
    first = step * plan.global_batch
    last = first + plan.global_batch - 1
    epochs = range(first // n_samples, last // n_samples + 1)
    stream = [epoch_order(plan.seed, epoch, n_samples)[max(first - epoch * n_samples, 0) :] for epoch in epochs]
    return np.concatenate([order[: plan.global_batch] for order in stream])[: plan.global_batch]


@lru_cache(maxsize=4)  # a step needs two at most, and reader threads may be an epoch apart
def epoch_order(seed: int, epoch: int, n_samples: int) -> Rows:
    """Return the permutation of all samples that makes up one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n_samples)


def step_seed(*parts: int) -> int:
    """Mix numbers such as (seed, step) into one seed, so that nothing random has to be stored."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class Recordings:
    """What a dataset holds of every frame, opened once: columns in memory, images where `open_frames` has them."""

    def __init__(self, dataset: Dataset, frames: dict[str, Frames], cache_dir: Path) -> None:
        """Read the columns; raises UserError where a value is not finite, naming episode and frame."""
        keys = [STATE, ACTION, *([ENVIRONMENT] if ENVIRONMENT in dataset.features else [])]
        columns = dataset.columns(keys, cache_dir)
        for key, values in columns.items():
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if bad.size:
                episode = next(e for e in dataset.episodes if e.start <= bad[0] < e.stop)
                raise UserError(
                    f"{dataset.root}: {key} is not finite in episode {episode.number}, frame {bad[0] - episode.start}; "
                    "leave the episode out of data.episodes and convert without it"
                )
        self.state_NS, self.action_NA, self.environment_NE = columns[STATE], columns[ACTION], columns.get(ENVIRONMENT)
        self.frames = list(frames.values())

    def buffers(self, batch_size: int, pin: bool = False) -> list[Tensor]:
        """Return room for the images of a batch, one (B, H, W, 3) uint8 tensor a camera."""
        return [torch.empty(batch_size, *frames.shape, dtype=torch.uint8, pin_memory=pin) for frames in self.frames]

    def chunks(
        self, rows: Rows, stops: Rows, chunk_size: int, noise_BL: Tensor, valid_count: int, images: list[Tensor]
    ) -> Batch:
        """Gather the frames `rows` and the action chunks that start there; `stops` is where their episodes end.

        The images are written into `images`.
        """
        steps_BC = rows[:, None] + np.arange(chunk_size)
        for frames, buffer in zip(self.frames, images, strict=True):
            frames.take(rows, buffer.numpy())
        environment_NE = self.environment_NE
        return Batch(
            state_BS=torch.from_numpy(self.state_NS[rows]),
            environment_BE=torch.from_numpy(environment_NE[rows]) if environment_NE is not None else None,
            images=images,
            action_BCA=torch.from_numpy(self.action_NA[np.minimum(steps_BC, stops[:, None] - 1)]),
            is_pad_BC=torch.from_numpy(steps_BC >= stops[:, None]),
            noise_BL=noise_BL,
            chance_BP=None,
            valid_count=valid_count,
            rows=rows,
        )


class Samples:
    """The frames of the chosen episodes, each the start of an action chunk."""

    def __init__(self, recordings: Recordings, episodes: Sequence[Episode], chunk_size: int) -> None:
        self.recordings, self.chunk_size = recordings, chunk_size
        self.rows = np.concatenate([np.arange(e.start, e.stop) for e in episodes])
        self.stops = np.concatenate([np.full(e.length, e.stop) for e in episodes])

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, plan: BatchOrder, step: int, part: int = 0, images: list[Tensor] | None = None) -> Batch:
        """Gather this rank's part of the global batch of `step`, or one of the parts whose gradients are summed.

        The images are written into `images` where given.
        """
        positions = global_positions(plan, len(self), step)
        rows, stops = self.rows[positions], self.stops[positions]
        valid_count = int(np.minimum(stops - rows, self.chunk_size).sum())
        first = (plan.rank * plan.accumulation + part) * plan.batch_size
        mine = slice(first, first + plan.batch_size)
        generator = torch.Generator().manual_seed(step_seed(plan.seed, step))
        noise = torch.randn(plan.global_batch, plan.latent_dim, generator=generator)
        batch = self.recordings.chunks(
            rows[mine],
            stops[mine],
            self.chunk_size,
            noise[mine],
            valid_count,
            self.recordings.buffers(plan.batch_size) if images is None else images,
        )
        if not plan.augment:
            return batch
        return batch._replace(chance_BP=torch.rand(plan.global_batch, CHANCES, generator=generator)[mine] * 2 - 1)


def batches(
    samples: Samples, plan: BatchOrder, first_step: int, steps: int, num_workers: int, pin: bool
) -> Generator[Batch]:
    """Yield the batches of steps first_step .. steps-1, gathered ahead by `num_workers` threads.

    Threads, not processes: copying and decoding leave Python's lock, and a container's /dev/shm may hold only 64 MB.
    A batch's images are overwritten once the next batch is asked for: num_workers + 1 buffers serve the whole run.
    """
    buffers = [samples.recordings.buffers(plan.batch_size, pin) for _ in range(num_workers + 1)]
    copied: list[torch.cuda.Event | None] = [None] * len(buffers)

    def gather(number: int) -> Batch:
        slot, event = number % len(buffers), copied[number % len(buffers)]
        if event is not None:
            event.synchronize()  # the device has read what lies here
        return samples.batch(plan, *divmod(number, plan.accumulation), buffers[slot])

    first, last = first_step * plan.accumulation, steps * plan.accumulation
    with ThreadPoolExecutor(max(num_workers, 1), initializer=use_batch_scheduling) as pool:
        ahead: deque[Future[Batch]] = deque()
        try:
            for number in range(first, last):
                while len(ahead) < num_workers + 1 and number + len(ahead) < last:
                    ahead.append(pool.submit(gather, number + len(ahead)))
                yield ahead.popleft().result()
                if pin:
                    copied[number % len(buffers)] = event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                    event.record()
        finally:
            for future in ahead:
                future.cancel()


def use_batch_scheduling() -> None:
    """Have the calling thread take its turn when woken, instead of taking the processor from the one that trains."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # on Linux 0 is the thread, not the process


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
