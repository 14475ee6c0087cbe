"""Training batches of a dataset: their order is a function of (seed, epoch), their images come from a memory map.

Axes: B samples of this rank, C steps of a chunk, S state, E environment and A action dimensions, L latent dimensions,
U random numbers for augmentation, N frames of the dataset.
"""

import contextlib
import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.cli.command import UserError
from common.lerobot.frames import Frames, Rows
from common.lerobot.metadata import ACTION, ENVIRONMENT, STATE, Episode
from common.lerobot.training import training_columns
from stage2_train.augment import UNIFORMS

if TYPE_CHECKING:
    from common.lerobot.dataset import Dataset


class Batch(NamedTuple):
    """One rank's part of a global batch, in robot units."""

    state_BS: Tensor
    environment_BE: Tensor | None
    images: list[Tensor]  # one (B, H, W, 3) uint8 per camera
    action_BCA: Tensor
    is_pad_BC: Tensor  # True after the end of the episode, where the last action is repeated
    noise_BL: Tensor  # for the VAE
    uniform_BU: Tensor | None  # for augmentation, in -1..1
    valid_count: int  # steps of the global batch that are not padding
    rows: Rows

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with every tensor on a device; pinned memory is copied without a wait."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return self._replace(
            state_BS=move(self.state_BS),
            environment_BE=None if self.environment_BE is None else move(self.environment_BE),
            images=[move(image) for image in self.images],
            action_BCA=move(self.action_BCA),
            is_pad_BC=move(self.is_pad_BC),
            noise_BL=move(self.noise_BL),
            uniform_BU=None if self.uniform_BU is None else move(self.uniform_BU),
        )


@dataclass(frozen=True)
class BatchOrder:
    """Which samples make up each batch: a function of these numbers and the step, so nothing has to be stored."""

    seed: int
    batch_size: int  # of one forward pass on each rank
    rank: int
    world_size: int
    latent_dim: int
    grad_accumulation: int = 1  # batches of each rank that make up its part of the global batch
    augment: bool = False

    @property
    def global_batch(self) -> int:
        """Samples per step over all ranks."""
        return self.batch_size * self.world_size * self.grad_accumulation


def global_batch_positions(order: BatchOrder, n_samples: int, step: int) -> Rows:
    """Return which samples (0 .. n_samples-1) form the global batch of `step`, (global_batch,).

    Epochs follow each other without a gap, each with its own permutation: every sample is seen once before any is seen
    twice, and the sequence does not depend on how many ranks share it.
    """
    first = step * order.global_batch
    last = first + order.global_batch - 1
    epochs = range(first // n_samples, last // n_samples + 1)
    parts = [epoch_permutation(order.seed, epoch, n_samples)[max(first - epoch * n_samples, 0) :] for epoch in epochs]
    return np.concatenate([part[: order.global_batch] for part in parts])[: order.global_batch]


@lru_cache(maxsize=4)  # a step needs at most two, and loader threads may be an epoch apart
def epoch_permutation(seed: int, epoch: int, n_samples: int) -> Rows:
    """Return the permutation of all samples that makes up one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n_samples)


def step_seed(*parts: int) -> int:
    """Mix numbers such as (seed, step) into one seed, so that no state of a random generator has to be stored."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class FrameStore:
    """All frames of a dataset: columns as arrays, images as `open_frames` returns them."""

    def __init__(self, dataset: "Dataset", frames: dict[str, Frames], cache_dir: Path) -> None:
        """Read the columns; raises UserError naming episode and frame where a value is not finite."""
        columns = training_columns(dataset, cache_dir)
        self.state_NS, self.action_NA, self.environment_NE = columns[STATE], columns[ACTION], columns.get(ENVIRONMENT)
        self.frames = list(frames.values())

    def image_buffers(self, batch_size: int, pin: bool = False) -> list[Tensor]:
        """Return memory for the images of a batch, one (B, H, W, 3) uint8 tensor per camera."""
        return [torch.empty(batch_size, *frames.shape, dtype=torch.uint8, pin_memory=pin) for frames in self.frames]

    def gather(
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
            uniform_BU=None,
            valid_count=valid_count,
            rows=rows,
        )


class ChunkDataset:
    """The frames of the chosen episodes, each the start of an action chunk."""

    def __init__(self, store: FrameStore, episodes: Sequence[Episode], chunk_size: int) -> None:
        self.store, self.chunk_size = store, chunk_size
        self.rows, self.stops = episode_rows(episodes)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, order: BatchOrder, step: int, part: int = 0, images: list[Tensor] | None = None) -> Batch:
        """Gather this rank's part of the global batch of `step`, or one of the parts whose gradients are summed.

        The images are written into `images` where given.
        """
        positions = global_batch_positions(order, len(self), step)
        rows, stops = self.rows[positions], self.stops[positions]
        valid_count = int(np.minimum(stops - rows, self.chunk_size).sum())
        first = (order.rank * order.grad_accumulation + part) * order.batch_size
        own = slice(first, first + order.batch_size)
        # Noise is drawn for the global batch and sliced: it does not depend on how many ranks share the batch.
        generator = torch.Generator().manual_seed(step_seed(order.seed, step))
        noise = torch.randn(order.global_batch, order.latent_dim, generator=generator)[own]
        images = self.store.image_buffers(order.batch_size) if images is None else images
        batch = self.store.gather(rows[own], stops[own], self.chunk_size, noise, valid_count, images)
        if not order.augment:
            return batch
        return batch._replace(uniform_BU=torch.rand(order.global_batch, UNIFORMS, generator=generator)[own] * 2 - 1)


def episode_rows(episodes: Sequence[Episode]) -> tuple[Rows, Rows]:
    """Return every row of the episodes, and for each the row where its episode stops."""
    rows = np.concatenate([np.arange(episode.start, episode.stop) for episode in episodes])
    return rows, np.concatenate([np.full(episode.length, episode.stop) for episode in episodes])


def load_batches(
    dataset: ChunkDataset, order: BatchOrder, first_step: int, steps: int, num_workers: int, pin: bool
) -> Generator[Batch]:
    """Yield the batches of steps first_step .. steps-1, prefetched by `num_workers` threads.

    Threads, not processes: copying and decoding release Python's lock, and a container's /dev/shm may hold only 64 MB.
    A batch's images are overwritten once the next batch is asked for: num_workers + 1 buffers serve the whole run.
    """
    buffers = [dataset.store.image_buffers(order.batch_size, pin) for _ in range(num_workers + 1)]
    copied: list[torch.cuda.Event | None] = [None] * len(buffers)

    def gather(number: int) -> Batch:
        slot, event = number % len(buffers), copied[number % len(buffers)]
        if event is not None:
            event.synchronize()  # the device has read the previous batch of this buffer
        return dataset.batch(order, *divmod(number, order.grad_accumulation), buffers[slot])

    first, last = first_step * order.grad_accumulation, steps * order.grad_accumulation
    with ThreadPoolExecutor(max(num_workers, 1), initializer=use_batch_scheduling) as pool:
        prefetched: deque[Future[Batch]] = deque()
        try:
            for number in range(first, last):
                while len(prefetched) < num_workers + 1 and number + len(prefetched) < last:
                    prefetched.append(pool.submit(gather, number + len(prefetched)))
                yield prefetched.popleft().result()
                if pin:
                    copied[number % len(buffers)] = event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                    event.record()
        finally:
            for future in prefetched:
                future.cancel()


def use_batch_scheduling() -> None:
    """Give the calling thread the SCHED_BATCH policy: when it wakes up it does not preempt the thread that trains."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # on Linux 0 is the thread, not the process


def split_episodes(
    dataset: "Dataset", chosen: Sequence[int] | None, val_fraction: float
) -> tuple[list[Episode], list[Episode]]:
    """Return (training, held-out) episodes; held-out ones are evenly spaced, whatever the seed.

    Raises UserError when an episode does not exist or none is left to train on.
    """
    for number in chosen or ():
        if number >= len(dataset.episodes):
            raise UserError(
                f"data.episodes names episode {number}; {dataset.root} has 0 to {len(dataset.episodes) - 1}"
            )
    numbers = range(len(dataset.episodes)) if chosen is None else sorted(set(chosen))
    episodes = [dataset.episodes[number] for number in numbers]
    count = round(len(episodes) * val_fraction)
    held_out = {int((i + 0.5) * len(episodes) / count) for i in range(count)}
    train = [episode for i, episode in enumerate(episodes) if i not in held_out]
    if not train:
        raise UserError(f"no episode is left to train on: {len(episodes)} chosen, {count} of them held out")
    return train, [episode for i, episode in enumerate(episodes) if i in held_out]
