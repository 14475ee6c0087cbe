"""AdamW with a learning-rate schedule, gradient clipping and, in float16, loss scaling."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from common.act.network import Act, parameter_groups

if TYPE_CHECKING:
    from stage2_train.config import TrainingConfig

SCALER_STATE = "scaler/scale_and_good_steps"
MIN_LOSS_SCALE = 1.0  # below it float16 gradients underflow, and what overflows is not the scale's fault


class Optimizer:
    """AdamW over two parameter groups, everything but the backbone and the backbone, as in LeRobot's ACT preset."""

    def __init__(self, network: Act, training: "TrainingConfig", world_size: int = 1) -> None:
        lr_scale = world_size if training.scale_lr else 1
        self._training, self._parameters = training, list(network.parameters())
        groups = parameter_groups(network, training.lr * lr_scale, training.lr_backbone * lr_scale)
        self._base_lrs: list[float] = [group["lr"] for group in groups]
        self._adamw = AdamW(groups, weight_decay=training.weight_decay, fused=True)
        self._device = self._parameters[0].device
        self.scaler = GradScaler(self._device.type, enabled=training.amp == "fp16")  # does nothing where not enabled

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one loss, or of one part of a step's loss."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, step: int) -> tuple[float, Tensor]:
        """Clip the gradients, update the weights and clear the gradients.

        Returns the learning rate and the gradient norm before clipping, which is not read: nothing waits for the device.
        """
        lr = self._set_learning_rates(step)
        self.scaler.unscale_(self._adamw)
        grad_norm = clip_grad_norm_(self._parameters, self._training.grad_clip_norm or math.inf)
        self.scaler.step(self._adamw)
        self.scaler.update()
        self._adamw.zero_grad(set_to_none=True)
        return lr, grad_norm

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as LeRobot's optimizer_state.safetensors names it, plus that of the float16 loss scaler.

        Parameters are numbered group by group. Before the first step the moments are created, as AdamW would create them.
        """
        named = {}
        for i, parameter in enumerate(p for group in self._adamw.param_groups for p in group["params"]):
            state = self._adamw.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(parameter.detach()) for _ in range(2))
            named.update({f"state/{i}/{key}": state[key] for key in ("exp_avg", "exp_avg_sq", "step")})
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            named[SCALER_STATE] = torch.tensor([scaler["scale"], scaler["_growth_tracker"]], device=self._device)
        return named

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a state that `tensors` returned; raises KeyError or ValueError if it belongs to another network."""
        for name, own in self.tensors().items():
            if own.shape != tensors[name].shape:
                raise ValueError(f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own.shape)}")
            own.copy_(tensors[name])  # in place: the fused kernel needs moments with the memory layout of the weights
        if self.scaler.is_enabled():
            scale, growth_tracker = tensors[SCALER_STATE].tolist()
            state = {**self.scaler.state_dict(), "scale": scale, "_growth_tracker": int(growth_tracker)}
            self.scaler.load_state_dict(state)

    def groups(self) -> list[dict[str, object]]:
        """Return the parameter groups without their tensors, as LeRobot's optimizer_param_groups.json holds them."""
        return list(self._adamw.state_dict()["param_groups"])

    def _set_learning_rates(self, step: int) -> float:
        training = self._training
        floor = training.min_lr / training.lr if training.lr > 0 else 0.0
        factor = learning_rate_factor(step, training.steps, training.warmup_steps, floor, training.scheduler)
        for group, base_lr in zip(self._adamw.param_groups, self._base_lrs, strict=True):
            group["lr"] = base_lr * factor
        return self._base_lrs[0] * factor


def learning_rate_factor(
    step: int, steps: int, warmup_steps: int, floor: float, scheduler: Literal["none", "cosine"]
) -> float:
    """Return what every group's base learning rate is multiplied by at `step` (0 is the first optimizer step).

    "none" is 1 throughout, without warm-up. "cosine" rises linearly from 1/warmup_steps at step 0, so that no step is
    wasted on a rate of zero, to 1 at step warmup_steps - 1, then falls along half a cosine to `floor`, in 0..1, at step
    steps - 1 and stays there. A training no longer than its warm-up only rises.
    """
    if scheduler == "none":
        return 1.0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    peak = max(warmup_steps - 1, 0)
    progress = min((step - peak) / max(steps - 1 - peak, 1), 1.0)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
