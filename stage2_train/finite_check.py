"""Finds the first step whose loss or gradient norm was not finite, without a wait for the device in any step."""

import math

import torch
from torch import Tensor
from torch.amp import GradScaler

from common.cli.command import UserError
from stage2_train.distributed import World
from stage2_train.optimizer import MIN_LOSS_SCALE


class FiniteCheck:
    """Records bad steps on the device; the host reads the record before it logs, validates or saves."""

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
                    "and start from the last checkpoint with model.init_from"
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
