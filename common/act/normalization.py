"""Normalization between robot units and the network's units, by the statistics of a checkpoint."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from common.cli.command import UserError

EPS = 1e-8  # LeRobot's, added to the standard deviation on the way in only
# Statistics that span -1..1 in each of LeRobot's range modes.
RANGES = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}

# LeRobot 0.3 keeps statistics among the weights, the dots of a feature's key written as underscores.
_BUFFER = re.compile(r"(?:normalize_inputs|normalize_targets|unnormalize_outputs)\.buffer_(\w+)\.(\w+)")


class Normalizer:
    """An affine map for every feature.

    `statistics` maps "<feature>.<stat>" to a tensor, as LeRobot's processor files do; `mapping` says how STATE, ACTION, ENV
    and VISUAL features are normalized; `sizes` gives the shape each used feature's statistics must have. A statistic that is
    missing, has another shape or is not finite is refused; LeRobot would silently leave such a feature unnormalized.
    """

    def __init__(
        self,
        statistics: Mapping[str, Tensor],
        mapping: Mapping[str, str],
        sizes: Mapping[str, tuple[int, ...]],
        where: str,
    ) -> None:
        self._statistics = {key: value.float() for key, value in statistics.items()}
        self.mapping = dict(mapping)
        self._where = where
        self._affine = {key: self._map(key, mapping.get(_kind(key), "IDENTITY"), shape) for key, shape in sizes.items()}

    def apply(self, key: str, value: Tensor) -> Tensor:
        """Map a feature (..., dimensions) from robot units to the network's units."""
        shift, scale, _ = self._affine[key]
        return (value - shift) / scale

    def restore(self, key: str, value: Tensor) -> Tensor:
        """Map a feature (..., dimensions) from the network's units back to robot units."""
        shift, _, scale = self._affine[key]
        return value * scale + shift

    def image(self, key: str, image_BHWC: Tensor) -> Tensor:
        """Map (B, H, W, 3) uint8 images to (B, 3, H, W) floats; the memory stays channels-last."""
        return self.apply(key, image_BHWC.permute(0, 3, 1, 2).float() / 255)

    def statistics(self) -> dict[str, Tensor]:
        """Return all statistics as they are saved, including those that are not used."""
        return {key: value.contiguous() for key, value in self._statistics.items()}

    def to(self, device: torch.device) -> "Normalizer":
        """Move the maps to a device and return this object."""
        self._affine = {
            key: (shift.to(device), scale.to(device), back.to(device))
            for key, (shift, scale, back) in self._affine.items()
        }
        return self

    def _map(self, key: str, mode: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        if mode == "IDENTITY":
            return torch.zeros(shape), torch.ones(shape), torch.ones(shape)
        if mode == "MEAN_STD":
            mean, std = self._get(key, "mean", shape), self._get(key, "std", shape)
            return mean, std + EPS, std
        if mode not in RANGES:
            raise UserError(f"{self._where}: normalization {mode!r} of {key} is not supported")
        low, high = (self._get(key, name, shape) for name in RANGES[mode])
        half = torch.where(high == low, torch.full_like(low, EPS), high - low) / 2
        return low + half, half, half

    def _get(self, key: str, name: str, shape: tuple[int, ...]) -> Tensor:
        value = self._statistics.get(f"{key}.{name}")
        if value is None:
            raise UserError(f"{self._where}: the normalization lacks {key}.{name}; actions would be wrong without it")
        if tuple(value.shape) != shape:
            raise UserError(f"{self._where}: {key}.{name} has shape {tuple(value.shape)}, the policy needs {shape}")
        if not torch.isfinite(value).all():
            raise UserError(f"{self._where}: {key}.{name} holds a value that is not finite")
        return value


def _kind(key: str) -> str:
    if key.startswith("action"):
        return "ACTION"
    if key == "observation.environment_state":
        return "ENV"
    return "VISUAL" if key.startswith("observation.image") else "STATE"


def split_buffers(
    tensors: Mapping[str, Tensor], keys: Iterable[str], where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a model.safetensors into weights and, when LeRobot 0.3 wrote it, "<feature>.<stat>" statistics."""
    features = {key.replace(".", "_"): key for key in keys}
    weights, statistics = {}, dict[str, Tensor]()
    for name, tensor in tensors.items():
        match = _BUFFER.fullmatch(name)
        if match is None or match[1] not in features:
            weights[name] = tensor
            continue
        key = f"{features[match[1]]}.{match[2]}"
        if not torch.equal(statistics.setdefault(key, tensor), tensor):
            raise UserError(f"{where}: its buffers disagree on {key}; they come from two trainings")
    return weights, statistics
