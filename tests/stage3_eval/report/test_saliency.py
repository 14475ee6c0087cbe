"""Pixels with a high attribution change the prediction more than others."""

import numpy as np
import pytest
import torch

from common.lerobot.dataset import Dataset
from common.policy import Policy
from stage3_eval.report.saliency import over_image, saliency
from tests.conftest import GOLDEN
from tests.stage3_eval.conftest import tiny_checkpoint


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(tiny_checkpoint(Dataset.open(GOLDEN / "dataset_image")))


def observation() -> dict[str, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    return {"observation.state": np.zeros((1, 6), np.float32), "observation.images.color": image}


def test_a_map_has_the_images_size_and_its_brightest_spot_is_one(policy: Policy) -> None:
    (name, found), *others = saliency(policy, observation()).items()
    assert (name, found.shape, others) == ("color", (64, 96), [])
    assert found.min() >= 0
    assert found.max() == pytest.approx(1)
    assert policy.predict_chunk(observation()).requires_grad is False  # the policy is as it was
    assert all(parameter.grad is None for parameter in policy.network.parameters())


def test_changing_the_bright_part_changes_the_chunk_more_than_changing_the_dark_part(policy: Policy) -> None:
    seen = observation()
    found, before = saliency(policy, seen)["color"], policy.predict_chunk(seen)
    order = np.argsort(found, axis=None)
    moved = []
    for pixels in (order[: 64 * 96 // 4], order[-64 * 96 // 4 :]):
        changed = seen["observation.images.color"].copy().reshape(-1, 3)
        changed[pixels] = np.clip(changed[pixels].astype(int) + 6, 0, 255)
        image = changed.reshape(1, 64, 96, 3).astype(np.uint8)
        chunk = policy.predict_chunk({**seen, "observation.images.color": image})
        moved.append(float((chunk - before).abs().sum()))
    dark, bright = moved
    assert bright > 1.5 * dark


def test_an_image_that_the_network_ignores_has_a_dark_map() -> None:
    policy = Policy(tiny_checkpoint(Dataset.open(GOLDEN / "dataset_image")))
    with torch.no_grad():
        policy.network.encoder_img_feat_input_proj.weight.zero_()
    assert not saliency(policy, observation())["color"].any()


def test_the_overlay_glows_where_the_map_is_bright_and_is_gray_elsewhere() -> None:
    image = np.full((8, 8, 3), (200, 30, 30), np.uint8)
    bright = np.zeros((8, 8), np.float32)
    bright[2, 3] = 1
    mixed = over_image(image, bright)
    assert mixed.sum(axis=2).argmax() == 2 * 8 + 3
    assert len(set(mixed[0, 0].tolist())) == 1
