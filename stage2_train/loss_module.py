"""From a batch in robot units to its loss: augmentation, normalization, prediction and comparison, on the device."""

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common.act.network import Act
from common.act.normalization import Normalizer
from common.lerobot.metadata import ACTION, ENVIRONMENT, STATE, image_key
from stage2_train.augment import augment
from stage2_train.batches import Batch
from stage2_train.loss import Loss, act_loss

if TYPE_CHECKING:
    from stage2_train.config import TrainConfig

PRECISIONS = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class LossModule:
    """The network with normalization and loss around it; `model` is the network itself or DDP around it."""

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
