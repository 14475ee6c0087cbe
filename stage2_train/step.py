"""One optimizer step: fetch, forward, backward, clip, update, record. Nothing in it waits for the device.

What a step gave is recorded on the device: losses and times in Averages, what is not finite in FiniteCheck.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.amp import GradScaler

from common.cli.command import UserError
from stage2_train.batches import Batch, BatchOrder, step_seed
from stage2_train.distributed import World
from stage2_train.loss import Loss, LossModule
from stage2_train.optimizer import MIN_LOSS_SCALE, Optimizer
from stage2_train.tracking.averages import Averages


class FiniteCheck:
    """Records on the device the first step whose loss or gradient norm was not finite.

    The host reads the record before it logs, validates or saves.
    """

    def __init__(self, world: World, scaler: GradScaler, lr: float) -> None:
        self._world, self._scaler, self._lr = world, scaler, lr
        # The first bad step of this rank's loss, and of the gradient norm, which is the same on all ranks; inf: none.
        self._first_bad_2 = torch.full((2,), math.inf, device=world.device)

    def record(self, step: int, loss: Tensor, grad_norm: Tensor) -> None:
        """Record one step. In float16 an overflow is normal: GradScaler skips the update and halves the scale."""
        values_2 = torch.stack([loss, torch.zeros_like(grad_norm) if self._scaler.is_enabled() else grad_norm])
        self._first_bad_2 = torch.where(values_2.isfinite(), self._first_bad_2, self._first_bad_2.clamp(max=step))

    def require(self) -> None:
        """Stop all ranks with one error if any step so far was bad on any rank."""
        problem = self._problem()
        if problem is not None:
            self._world.exit_with(
                UserError(
                    f"{problem}, and no checkpoint was written since; lower training.lr={self._lr:g} or check the data, "
                    "and start from the last checkpoint with model.init_from and another training.output_dir"
                )
            )

    def _problem(self) -> str | None:
        first_bad_R2 = self._world.all_gather(self._first_bad_2).tolist()
        losses, grad_norm = [loss for loss, _ in first_bad_R2], first_bad_R2[0][1]
        loss = min(losses)
        if loss < math.inf and loss <= grad_norm:
            return f"the loss of rank {losses.index(loss)} is not finite at step {int(loss) + 1}"
        if grad_norm < math.inf:
            return f"the gradient norm is not finite at step {int(grad_norm) + 1}, although every loss is"
        if self._scaler.is_enabled() and self._scaler.get_scale() < MIN_LOSS_SCALE:
            return f"the gradients overflow float16 at every loss scale down to {self._scaler.get_scale():g}"
        return None


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
