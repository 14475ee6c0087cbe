"""Gradients in, updated weights out: AdamW with clipping and schedule, and no update from a number that is not finite.

Everything is decided on the device: whether a step is skipped is read by the host only when metrics are logged.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import AdamW

from common.act.network import Act, parameter_groups
from stage2_train.config import TrainingConfig
from stage2_train.schedule import learning_rate_factor

# The gradients of float16 are scaled up before they underflow, by GradScaler's rule: halved when they overflow, doubled
# after so many steps without.
FIRST_SCALE, GOOD_STEPS, LEAST_SCALE = 2.0**16, 2000, 1.0
NEVER = math.inf


class Guard:
    """The first step at which something was not finite: this rank's loss, and the gradients, which all ranks share."""

    def __init__(self, device: torch.device) -> None:
        self.first_2 = torch.full((2,), NEVER, device=device)

    def watch(self, loss: Tensor, step: int) -> Tensor:
        """Take note of a loss; returns it so changed that one that is not finite makes every rank's gradients NaN."""
        self._note(0, loss.detach(), step)
        return loss * (1 + 0 * loss.detach())  # an infinite L1 loss has finite gradients

    def stop(self, grad_norm: Tensor, step: int) -> Tensor:
        """Take note of a gradient norm; returns 1.0 from the first bad one on, 0.0 before."""
        self._note(1, grad_norm, step)
        return self.first_2[1].isfinite().float()

    def _note(self, place: int, value: Tensor, step: int) -> None:
        now = torch.where(value.isfinite(), NEVER, float(step))
        self.first_2[place] = torch.minimum(self.first_2[place], now)


class Optimizer:
    """AdamW over two groups, everything but the backbone and the backbone, as LeRobot's ACT preset has them."""

    def __init__(self, network: Act, training: TrainingConfig, world_size: int = 1) -> None:
        lr_scale = world_size if training.scale_lr else 1
        self._training, self._parameters = training, list(network.parameters())
        groups = parameter_groups(network, training.lr * lr_scale, training.lr_backbone * lr_scale)
        self._base_lrs: list[float] = [group["lr"] for group in groups]
        self.adamw = AdamW(groups, weight_decay=training.weight_decay, fused=True)
        device = self._parameters[0].device
        self.guard = Guard(device)
        self._scaled = training.amp == "fp16"
        self._scale_2 = torch.tensor([FIRST_SCALE if self._scaled else 1.0, 0.0], device=device)  # and good steps since

    def backward(self, loss: Tensor, step: int) -> None:
        """Add to the gradients those of one loss, or of one part of a step's loss."""
        loss = self.guard.watch(loss, step)
        (loss * self._scale_2[0] if self._scaled else loss).backward()  # type: ignore[no-untyped-call]

    def step(self, step: int) -> tuple[float, Tensor]:
        """Update the weights from their gradients and clear them; returns the learning rate and the norm before clipping.

        From the first step on whose loss or gradients are not finite, on any rank, the weights stay as they are.
        """
        training = self._training
        floor = training.min_lr / training.lr if training.lr > 0 else 0.0
        factor = learning_rate_factor(step, training.steps, training.warmup_steps, floor, training.scheduler)
        for group, base_lr in zip(self.adamw.param_groups, self._base_lrs, strict=True):
            group["lr"] = base_lr * factor
        scale = self._scale_2[0]
        grad_norm = get_total_norm([p.grad for p in self._parameters if p.grad is not None]) / scale
        most = training.grad_clip_norm or math.inf
        stop = self._rescale(grad_norm, step) if self._scaled else self.guard.stop(grad_norm, step)
        # Fused AdamW divides by the one and looks at the other itself, on the device, as it does for GradScaler: clipping,
        # unscaling and skipping cost no pass over the gradients. The 1e-6 is clip_grad_norm_'s.
        self.adamw.grad_scale = scale * ((grad_norm + 1e-6) / most).clamp(min=1)  # type: ignore[attr-defined]
        self.adamw.found_inf = stop  # type: ignore[attr-defined]
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return self._base_lrs[0] * factor, grad_norm

    def _rescale(self, grad_norm: Tensor, step: int) -> Tensor:
        scale, good = self._scale_2
        overflow = ~grad_norm.isfinite()
        grown = torch.where(good + 1 >= GOOD_STEPS, scale * 2, scale)
        self._scale_2 = torch.stack(
            [torch.where(overflow, scale / 2, grown), torch.where(overflow, 0.0, (good + 1) % GOOD_STEPS)]
        )
        # An overflow is the scale's fault until there is nothing left to halve.
        stop = self.guard.stop(torch.where(scale / 2 < LEAST_SCALE, grad_norm, 0.0), step)
        return torch.maximum(overflow.float(), stop)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as LeRobot's optimizer_state.safetensors names it, and the scale of float16.

        Parameters are numbered group by group. Before the first step the moments are made, as AdamW would make them.
        """
        named = {}
        for i, parameter in enumerate(p for group in self.adamw.param_groups for p in group["params"]):
            state = self.adamw.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(parameter.detach()) for _ in range(2))
            named.update({f"state/{i}/{key}": state[key] for key in ("exp_avg", "exp_avg_sq", "step")})
        return {**named, "scaler/scale_and_good_steps": self._scale_2} if self._scaled else named

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that `tensors` returned; raises KeyError or ValueError where it is another network's."""
        for name, own in self.tensors().items():
            if own.shape != tensors[name].shape:
                raise ValueError(f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own.shape)}")
            own.copy_(tensors[name])  # in place: the kernel counts on moments that lie in memory as the weights do

    def groups(self) -> list[dict[str, object]]:
        """Return the parameter groups without their tensors, as LeRobot's optimizer_param_groups.json holds them."""
        return list(self.adamw.state_dict()["param_groups"])
