"""Training batches of a dataset: their order is a function of (seed, epoch), their images come from a memory map.

Axes: B samples of this rank, C steps of a chunk, S state, E environment and A action dimensions, L latent dimensions,
U random numbers for augmentation, N frames of the dataset.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

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

CPU = torch.device("cpu")


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
        """Return the batch with every tensor on a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with every tensor changed."""
        changed: dict[str, Any] = {
            key: change(value) for key, value in self._asdict().items() if isinstance(value, Tensor)
        }
        return self._replace(images=[change(image) for image in self.images], **changed)

    def tensors(self) -> list[Tensor]:
        """Return every tensor, always in the same order."""
        return [*self.images, *(value for value in self if isinstance(value, Tensor))]


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

    def __init__(self, dataset: "Dataset", frames: Mapping[str, Frames]) -> None:
        """Read the columns; raises UserError naming episode and frame where a value is not finite."""
        columns = training_columns(dataset)
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


class DeviceCopies:
    """Copies batches to a device on a stream of its own, so that the copy of one overlaps the step on the one before it.

    The host enqueues steps ahead of the device: it asks for the next batch while the device is still busy. There are as
    many places on the device as buffers on the host, and neither side waits for the other here: the stream waits until
    the step that reads a place has ended, the step until the copy has, and a loader thread until it may fill a buffer again.
    """

    def __init__(self, device: torch.device, slots: int) -> None:
        self._device, self._module = device, torch.get_device_module(device)
        self._stream, self._last = self._module.Stream(), 0
        self._places: list[Batch | None] = [None] * slots
        # A thread that waits for a blocking event sleeps, where others keep a core busy.
        event = partial(torch.cuda.Event, blocking=True) if device.type == "cuda" else self._module.Event
        self._copied, self._read = ([event() for _ in range(slots)] for _ in range(2))

    def wait_for_buffer(self, slot: int) -> None:
        """Wait until the device has copied the buffer that was put into a slot before; for the thread that fills it."""
        self._copied[slot].synchronize()

    def put(self, slot: int, batch: Batch) -> Batch:
        """Enqueue the copy of a batch in pinned memory; its place is overwritten when the slot is used again."""
        steps, place = self._module.current_stream(), self._places[slot]
        self._read[self._last].record(steps)  # all that reads the batch before has been enqueued by now
        self._last = slot
        if place is None:
            place = self._places[slot] = batch.map(partial(torch.empty_like, device=self._device))
            self._read[slot].record(steps)  # a step that is still running may have freed this memory
        self._stream.wait_event(self._read[slot])
        with self._module.stream(self._stream):
            for target, source in zip(place.tensors(), batch.tensors(), strict=True):
                target.copy_(source, non_blocking=True)
            self._copied[slot].record(self._stream)
        steps.wait_event(self._copied[slot])
        return place._replace(valid_count=batch.valid_count, rows=batch.rows)


def load_batches(
    dataset: ChunkDataset, order: BatchOrder, first_step: int, steps: int, num_workers: int, device: torch.device = CPU
) -> Generator[Batch]:
    """Yield the batches of steps first_step .. steps-1 on the device, prefetched by `num_workers` threads.

    Threads, not processes: copying and decoding release Python's lock, and a container's /dev/shm may hold only 64 MB.
    A batch's images are overwritten once the next batch is asked for: num_workers + 1 buffers serve the whole run.
    """
    slots = max(num_workers, 1) + 1
    copies = None if device.type == "cpu" else DeviceCopies(device, slots)
    buffers = [dataset.store.image_buffers(order.batch_size, pin=copies is not None) for _ in range(slots)]

    def gather(number: int) -> Batch:
        slot, step_and_part = number % slots, divmod(number, order.grad_accumulation)
        if copies is None:
            return dataset.batch(order, *step_and_part, buffers[slot])
        copies.wait_for_buffer(slot)
        return dataset.batch(order, *step_and_part, buffers[slot]).map(Tensor.pin_memory)

    first, last = first_step * order.grad_accumulation, steps * order.grad_accumulation
    with ThreadPoolExecutor(max(num_workers, 1), initializer=partial(_start_loader_thread, device)) as pool:
        prefetched: deque[Future[Batch]] = deque()
        try:
            for number in range(first, last):
                while len(prefetched) < num_workers + 1 and number + len(prefetched) < last:
                    prefetched.append(pool.submit(gather, number + len(prefetched)))
                batch = prefetched.popleft().result()
                yield batch if copies is None else copies.put(number % slots, batch)
        finally:
            for future in prefetched:
                future.cancel()


def _start_loader_thread(device: torch.device) -> None:
    use_batch_scheduling()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # each thread has a current device of its own, at first that of another process


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
        raise UserError(
            f"no episode is left to train on: {len(episodes)} chosen, {count} of them held out; lower data.val_fraction or "
            "choose more by data.episodes"
        )
    return train, [episode for i, episode in enumerate(episodes) if i in held_out]
