"""Averages of losses and times over the steps since the last log line."""

import torch

from stage2_train.distributed import World
from stage2_train.loss import Loss

Metrics = dict[str, float]


class Averages:
    """Sums since the last log line. Losses are summed on the device, so that no step waits for one to be read."""

    def __init__(self, device: torch.device) -> None:
        self._sums_3 = torch.zeros(3, device=device)
        self._steps, self._step_s, self._wait_s = 0, 0.0, 0.0

    def add(self, loss: Loss, step_s: float, data_wait_s: float) -> None:
        """Add one step: its loss, its duration, and how much of that it waited for data."""
        self._sums_3 += torch.stack(loss)
        self._steps, self._step_s, self._wait_s = self._steps + 1, self._step_s + step_s, self._wait_s + data_wait_s

    def means(self, world: World) -> Metrics:
        """Return the means per step, the losses' over all ranks, and start again; waits for the device."""
        total, l1, kl = (world.all_reduce_sum(self._sums_3) / (self._steps * world.size)).tolist()
        step_s, wait_s = self._step_s / self._steps, self._wait_s / self._steps
        self._sums_3 = torch.zeros_like(self._sums_3)
        self._steps, self._step_s, self._wait_s = 0, 0.0, 0.0
        return {"loss": total, "l1_loss": l1, "kl_loss": kl, "step_s": step_s, "data_wait_s": wait_s}
