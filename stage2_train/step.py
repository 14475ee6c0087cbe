"""One optimizer step: fetch, forward, backward, clip, update. Nothing in it waits for the device."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stage2_train.batches import Batch, BatchOrder, step_seed
from stage2_train.distributed import World
from stage2_train.finite_check import FiniteCheck
from stage2_train.loss import Loss
from stage2_train.loss_module import LossModule
from stage2_train.optimizer import Optimizer
from stage2_train.tracking.averages import Averages


class StepResult(NamedTuple):
    """What one optimizer step did; the norm is on the device and not yet read."""

    grad_norm: Tensor
    lr: float
    data_wait_s: float


@dataclass(frozen=True)
class Stepper:
    """Does steps, and adds what they gave to records on the device, which the host reads when it logs."""

    order: BatchOrder
    world: World
    loss_module: LossModule
    optimizer: Optimizer
    finite_check: FiniteCheck
    averages: Averages

    def step(self, batches: Iterator[Batch], step: int) -> StepResult:
        """Do one optimizer step on this rank's part of a global batch; `batches` are on the device."""
        parts, world = self.order.grad_accumulation, self.world
        started_s, data_wait_s, losses = time.perf_counter(), 0.0, []
        for part in range(parts):
            fetched_s = time.perf_counter()
            batch = next(batches)
            data_wait_s += time.perf_counter() - fetched_s

            # Dropout depends on (seed, rank, step) alone, so no random state has to be stored.
            torch.manual_seed(step_seed(self.order.seed, world.rank, step * parts + part))
            is_last_part = part == parts - 1
            with contextlib.nullcontext() if is_last_part else self.loss_module.no_sync():
                loss = self.loss_module.loss(batch, world.size * parts)
                self.optimizer.backward(loss.total / parts)
            losses.append(torch.stack(loss).detach() / parts)

        lr, grad_norm = self.optimizer.step(step)  # clips, too
        mean_loss = Loss(*torch.stack(losses).sum(dim=0))
        duration_s = time.perf_counter() - started_s
        self.finite_check.record(step, mean_loss.total, grad_norm)
        self.averages.add(mean_loss, duration_s, data_wait_s)
        return StepResult(grad_norm, lr, data_wait_s)
