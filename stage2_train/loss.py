"""The loss of ACT: L1 error of the predicted chunk plus the weighted KL divergence of the VAE's posterior.

`act_loss` is the formula; LossModule leads there from a batch in robot units, on the device. Tensor names end in their axes:
B batch, C chunk step, A action, L latent, S state, E environment, U random numbers for augmentation.
"""

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from common.act.network import Act
from common.act.normalization import Normalizer
from common.lerobot.metadata import ACTION, ENVIRONMENT, STATE, image_key
from stage2_train.augment import augment
from stage2_train.batches import Batch

if TYPE_CHECKING:
    from stage2_train.config import TrainConfig

PRECISIONS = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Loss(NamedTuple):
    """Scalars on the output's device; only `total` is meant for backward()."""

    total: Tensor
    l1: Tensor
    kl: Tensor


def act_loss(
    output: tuple[Tensor, Tensor | None, Tensor | None],
    action_BCA: Tensor,
    action_is_pad_BC: Tensor,
    kl_weight: float,
    valid_count: int | None = None,
    parts: int = 1,
    l1_rule: Literal["valid", "all"] = "valid",
) -> Loss:
    """L1 between the chunks plus `kl_weight` times the KL divergence of the posterior from N(0, 1).

    `output` is (actions (B, C, A), mu (B, L) or None, log variance (B, L) or None); without a posterior the KL is zero.
    Padded steps cost nothing. `l1_rule` says what the sum is divided by: the valid steps (LeRobot from 0.6.0 on) or
    every step, padded ones too (LeRobot up to 0.5.1 and Zhao et al. 2023). The KL is a sum over the latent and a mean
    over the batch, whatever is padded.

    When the global batch is split evenly into `parts`, over ranks or accumulation steps, give `valid_count`, the valid
    steps of the global batch: the mean of the parts' losses, and so of their gradients, is then that of the global batch.
    """
    actions_BCA, mu_BL, log_variance_BL = output
    error_BCA = (actions_BCA - action_BCA).abs().masked_fill(action_is_pad_BC[..., None], 0.0)
    if l1_rule == "all":
        l1 = error_BCA.mean()
    elif valid_count is None:
        valid = (~action_is_pad_BC).sum().clamp(min=1)
        l1 = error_BCA.sum() / (valid * action_BCA.shape[-1])
    else:
        l1 = error_BCA.sum() * (parts / (max(valid_count, 1) * action_BCA.shape[-1]))
    if mu_BL is None or log_variance_BL is None:
        return Loss(l1, l1, l1.new_zeros(()))
    mu_BL, log_variance_BL = mu_BL.to(l1.dtype), log_variance_BL.to(l1.dtype)  # a sum in half precision would be coarse
    kl_B = -0.5 * (1 + log_variance_BL - mu_BL.square() - log_variance_BL.exp()).sum(dim=-1)
    kl = kl_B.mean()
    return Loss(l1 + kl_weight * kl, l1, kl)


class LossModule:
    """The network with augmentation, normalization and loss around it; `model` is the network itself or DDP around it."""

    def __init__(
        self, network: Act, model: nn.Module, normalizer: Normalizer, cameras: Iterable[str], config: "TrainConfig"
    ) -> None:
        self.network, self.model = network, model
        self._normalizer, self._config = normalizer, config
        self._image_keys = [image_key(camera) for camera in cameras]
        self._precision = PRECISIONS[config.training.amp]

    def loss(self, batch: Batch, parts: int) -> Loss:
        """Return this batch's loss; the mean over all `parts` of a global batch, on all ranks, is that batch's loss."""
        action_BCA = self._normalizer.apply(ACTION, batch.action_BCA)
        state_BS, images, environment_BE = self._inputs(batch)
        with self._autocast(state_BS):
            output = self.model(state_BS, images, action_BCA, batch.is_pad_BC, batch.noise_BL, environment_BE)
        kl_weight, l1_rule = self._config.training.kl_weight, self._config.training.l1_rule
        return act_loss(output, action_BCA, batch.is_pad_BC, kl_weight, batch.valid_count, parts, l1_rule)

    def prediction_error(self, batch: Batch) -> Tensor:
        """Return (sum, count) of |error| over the valid steps, predicted as on the robot, in float64."""
        action_BCA = self._normalizer.apply(ACTION, batch.action_BCA)
        state_BS, images, environment_BE = self._inputs(batch)
        with self._autocast(state_BS):
            chunk_BCA = self.network(state_BS, images, environment_BE=environment_BE).actions_BCA
        error_BCA = (chunk_BCA - action_BCA).abs().double().masked_fill(batch.is_pad_BC[..., None], 0)
        return torch.stack([error_BCA.sum(), (~batch.is_pad_BC).sum() * float(action_BCA.shape[-1])])

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Do not average gradients over the ranks inside the block."""
        return contextlib.nullcontext() if self.model is self.network else self.model.no_sync()  # type: ignore[operator]

    def _inputs(self, batch: Batch) -> tuple[Tensor, list[Tensor], Tensor | None]:
        images = batch.images
        if batch.uniform_BU is not None:
            images = [augment(image, batch.uniform_BU, self._config.augment) for image in images]
        images = [self._normalizer.image(key, image) for key, image in zip(self._image_keys, images, strict=True)]
        environment_BE = batch.environment_BE
        if environment_BE is not None:
            environment_BE = self._normalizer.apply(ENVIRONMENT, environment_BE)
        return self._normalizer.apply(STATE, batch.state_BS), images, environment_BE

    def _autocast(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, self._precision, enabled=self._precision is not None)
