"""Averages of losses and times over the steps since the last log line."""

from typing import NamedTuple

import torch

from stage2_train.distributed import World
from stage2_train.loss import Loss

Metrics = dict[str, float]


class AveragesState(NamedTuple):
    """What a checkpoint keeps: the steps since the last log line, and each rank's sums of total loss, L1 and KL.

    The sums stay apart because floating-point addition in another order would give other bits.
    """

    steps: int
    sums: list[list[float]]


class Averages:
    """Sums since the last log line. Losses are summed on the device, so that no step waits for one to be read."""

    def __init__(self, device: torch.device) -> None:
        self._sums_3 = torch.zeros(3, device=device)
        self._steps, self._timed_steps, self._step_s, self._wait_s = 0, 0, 0.0, 0.0

    def add(self, loss: Loss, step_s: float, data_wait_s: float) -> None:
        """Add one step: its loss, its duration, and how much of that it waited for data."""
        self._sums_3 += torch.stack(loss)
        self._steps, self._timed_steps = self._steps + 1, self._timed_steps + 1
        self._step_s, self._wait_s = self._step_s + step_s, self._wait_s + data_wait_s

    def means(self, world: World) -> Metrics:
        """Return the means per step, the losses' over all ranks, and start again; waits for the device."""
        total, l1, kl = (world.all_reduce_sum(self._sums_3) / (self._steps * world.size)).tolist()
        step_s, wait_s = self._step_s / self._timed_steps, self._wait_s / self._timed_steps
        self._sums_3 = torch.zeros_like(self._sums_3)
        self._steps, self._timed_steps, self._step_s, self._wait_s = 0, 0, 0.0, 0.0
        return {"loss": total, "l1_loss": l1, "kl_loss": kl, "step_s": step_s, "data_wait_s": wait_s}

    def state(self, world: World) -> AveragesState:
        """Return what a checkpoint keeps; every rank must call it."""
        return AveragesState(self._steps, world.all_gather(self._sums_3).tolist())

    def load(self, state: AveragesState | None, world: World) -> None:
        """Continue from the main process's `state`; another number of processes shares its sums evenly."""
        sums_R3 = torch.zeros(world.size, 3, device=world.device)
        if state is not None:
            stored_R3 = torch.tensor(state.sums)
            sums_R3.copy_(stored_R3 if len(stored_R3) == world.size else stored_R3.mean(dim=0))
        world.broadcast([sums_R3])
        self._sums_3 = sums_R3[world.rank].clone()
        self._steps = world.broadcast_int(state.steps if state is not None else 0)
