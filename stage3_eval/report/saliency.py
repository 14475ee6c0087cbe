"""Input attribution: how much each pixel of an observation contributes to the predicted chunk.

It is the gradient of the predicted chunk with respect to the pixels (Simonyan et al. 2013, https://arxiv.org/abs/1312.6034).
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from common.policy import Observation, Policy

Map = npt.NDArray[np.float32]
SMOOTHING = 0.03  # of the image's width, as a standard deviation: gradients of single pixels are noise
OPACITY = 0.9  # of the map at its brightest spot in an overlay


def saliency(policy: Policy, observation: Observation) -> dict[str, Map]:
    """Return camera -> map (H, W) in 0..1: how much a small change of a pixel would change the chunk.

    `observation` is a batch of one.
    """
    state_BD, images, environment_BE = policy.inputs(observation)
    images = [image.detach().clone().requires_grad_() for image in images]
    with torch.enable_grad():
        chunk_BCA = policy.network(state_BD, images, environment_BE=environment_BE).actions_BCA
        gradients = torch.autograd.grad(chunk_BCA.square().sum(), images)
    maps = [_smooth(gradient[0].abs().amax(dim=0).cpu().numpy()) for gradient in gradients]
    top = max((float(map_HW.max()) for map_HW in maps), default=0.0) or 1.0
    return {camera: map_HW / top for camera, map_HW in zip(policy.cameras, maps, strict=True)}


def over_image(image_HWC: npt.NDArray[np.uint8], map_HW: Map) -> npt.NDArray[np.uint8]:
    """Return the image (H, W, 3) in gray under the map (H, W): bright where the attribution is high."""
    gray = cv2.cvtColor(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.float32)
    glow = cv2.applyColorMap((map_HW * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1].astype(np.float32)
    weight = OPACITY * map_HW[..., None]
    mixed: Any = 0.7 * gray * (1 - weight) + glow * weight
    return np.asarray(mixed, np.uint8)


def _smooth(map_HW: Map) -> Map:
    return np.asarray(cv2.GaussianBlur(map_HW, (0, 0), max(1.0, SMOOTHING * map_HW.shape[1])), np.float32)
