"""Held-out episodes and the network in, one number out: how far its chunks are from what was recorded.

The latent is zero, as it is on the robot. The batches are the same whatever the number of processes, which share them.
"""

from collections.abc import Sequence

import numpy as np
import torch

from common.lerobot.dataset import Episode
from stage2_train.batches import Recordings
from stage2_train.loss_module import LossModule
from stage2_train.ranks import Ranks


class Validation:
    """L1 over the valid steps of every chunk of the held-out episodes, in the network's units."""

    def __init__(
        self, recordings: Recordings, held_out: Sequence[Episode], chunk_size: int, batch_size: int, latent_dim: int
    ) -> None:
        self._recordings, self._chunk_size = recordings, chunk_size
        rows = np.concatenate([np.arange(e.start, e.stop) for e in held_out])
        stops = np.concatenate([np.full(e.length, e.stop) for e in held_out])
        starts = range(0, len(rows), batch_size)
        self._batches = [(rows[i : i + batch_size], stops[i : i + batch_size]) for i in starts]
        self._buffers = recordings.buffers(batch_size)
        self._noise = torch.zeros(batch_size, latent_dim)

    @torch.no_grad()
    def loss(self, learner: LossModule, ranks: Ranks) -> float:
        """Return the mean over all ranks' batches, the same on every rank; nothing random is drawn."""
        sums_2 = torch.zeros(2, dtype=torch.float64, device=ranks.device)
        with learner.evaluating():
            for rows, stops in self._batches[ranks.rank :: ranks.world_size]:
                images = [buffer[: len(rows)] for buffer in self._buffers]
                noise = self._noise[: len(rows)]
                batch = self._recordings.chunks(rows, stops, self._chunk_size, noise, 0, images)
                sums_2 += learner.error(batch.each(lambda tensor: tensor.to(ranks.device)))
        total, count = ranks.sum(sums_2).tolist()
        return float(total / count)
