"""Image augmentation on the device: color changes and small shifts, different for every sample.

Axes: B samples, H W pixels, C colors, U random numbers in -1..1.
"""

import math
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from stage2_train.config import AugmentConfig

UNIFORMS = 6  # random numbers per sample: brightness, contrast, saturation, hue, shift down, shift right
LUMA = (0.299, 0.587, 0.114)  # Rec. 601
# RGB to YIQ and back: in IQ a change of hue is a rotation, and gray stays gray.
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def augment(image_BHWC: Tensor, uniform_BU: Tensor, config: "AugmentConfig") -> Tensor:
    """Return the images (B, H, W, 3) uint8 shifted, then changed in brightness, contrast, saturation and hue at once.

    `uniform_BU` holds UNIFORMS numbers per sample; all cameras of a sample are changed alike. Nothing waits for the device.
    """
    if config.shift_px:
        image_BHWC = _shift(image_BHWC, uniform_BU[:, 4:6], config.shift_px)
    if not (config.brightness or config.contrast or config.saturation or config.hue):
        return image_BHWC
    image = image_BHWC.float()
    matrix_B33, contrast_B1 = _color_matrix(uniform_BU, config)
    gray_B11 = (image.mean(dim=(1, 2)) @ _constants(image.device)[0])[:, None, None]
    # contrast: c * x + (1 - c) * mean gray; the color matrix changes gray in brightness only
    offset_B11 = (1 - contrast_B1[..., None]) * gray_B11 * matrix_B33.sum(dim=2)[:, :1, None]
    flat_BNC = image.flatten(1, 2) @ (matrix_B33 * contrast_B1[..., None]).transpose(1, 2)
    return (flat_BNC + offset_B11).round_().clamp_(0, 255).to(torch.uint8).view(image_BHWC.shape)


def _color_matrix(uniform_BU: Tensor, config: "AugmentConfig") -> tuple[Tensor, Tensor]:
    amounts = (config.brightness, config.contrast, config.saturation)
    brightness, contrast, saturation = (1 + amount * uniform_BU[:, i] for i, amount in enumerate(amounts))
    angle = 2 * math.pi * config.hue * uniform_BU[:, 3]
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [one, zero, zero, zero, saturation * cos, -saturation * sin, zero, saturation * sin, saturation * cos]
    rotation_B33 = torch.stack(rows, dim=1).view(-1, 3, 3)
    _, to_yiq, to_rgb = _constants(uniform_BU.device)
    return brightness[:, None, None] * (to_rgb @ rotation_B33 @ to_yiq), contrast[:, None]


@cache  # a copy to the device would wait for it in every step
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return LUMA, the matrix to YIQ and the one back, in float32."""
    to_yiq = torch.tensor(YIQ, dtype=torch.float64)
    luma, to_yiq, to_rgb = (
        matrix.to(device, torch.float32) for matrix in (torch.tensor(LUMA), to_yiq, torch.linalg.inv(to_yiq))
    )
    return luma, to_yiq, to_rgb


def _shift(image_BHWC: Tensor, uniform_B2: Tensor, most_px: int) -> Tensor:
    _, height, width, _ = image_BHWC.shape
    # floor(u * n) with u in 0..1: every whole number of pixels is equally likely
    shift_B2 = ((uniform_B2 + 1) / 2 * (2 * most_px + 1)).floor().long().clamp(max=2 * most_px) - most_px
    device = image_BHWC.device
    row_BH = (torch.arange(height, device=device) - shift_B2[:, :1]).clamp(0, height - 1)
    column_BW = (torch.arange(width, device=device) - shift_B2[:, 1:]).clamp(0, width - 1)
    sample_B11 = torch.arange(len(image_BHWC), device=device)[:, None, None]
    return image_BHWC[sample_B11, row_BH[:, :, None], column_BW[:, None, :]]
