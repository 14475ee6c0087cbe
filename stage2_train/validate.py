"""The held-out loss: the mean L1 error of predicted chunks, in normalized units.

The latent is zero, as on the robot. The batches are the same for any number of processes, which share them.
"""

from collections.abc import Sequence

import numpy as np
import torch

from common.lerobot.metadata import Episode
from stage2_train.batches import FrameStore, episode_rows
from stage2_train.config import TrainConfig
from stage2_train.distributed import World
from stage2_train.loss import LossModule


class Validation:
    """L1 over the valid steps of every chunk of the held-out episodes."""

    def __init__(self, store: FrameStore, held_out: Sequence[Episode], config: TrainConfig) -> None:
        self._store, self._chunk_size, self._batch_size = store, config.model.chunk_size, config.training.batch_size
        self._rows, self._stops = episode_rows(held_out)
        self._images = store.image_buffers(self._batch_size)
        self._noise = torch.zeros(self._batch_size, config.model.latent_dim)

    @torch.no_grad()
    def loss(self, module: LossModule, world: World) -> float:
        """Return the mean over all held-out chunks, the same on every rank; draws no random numbers."""
        sum_and_count_2 = torch.zeros(2, dtype=torch.float64, device=world.device)
        module.network.eval()
        for first in range(world.rank * self._batch_size, len(self._rows), world.size * self._batch_size):
            # The last batch is filled up with its last sample, which counts once: a compiled network knows one shape.
            numbers = np.minimum(np.arange(first, first + self._batch_size), len(self._rows) - 1)
            rows, stops = self._rows[numbers], self._stops[numbers]
            batch = self._store.gather(rows, stops, self._chunk_size, self._noise, 0, self._images)
            batch.is_pad_BC[len(self._rows) - first :] = True
            sum_and_count_2 += module.prediction_error(batch.to(world.device))
        module.network.train()
        total, count = world.all_reduce_sum(sum_and_count_2).tolist()
        return float(total / count)
