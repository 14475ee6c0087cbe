"""Augmentation changes images within its bounds, the same on any number of processes, and not at all by default."""

import colorsys

import pytest
import torch

from stage2_train.augment import UNIFORMS, augment
from stage2_train.batches import BatchOrder, ChunkDataset
from stage2_train.config import AugmentConfig


def image(*rgb: int, height: int = 4, width: int = 6) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.uint8).expand(1, height, width, 3).clone()


def uniform(**values: float) -> torch.Tensor:
    names = ("brightness", "contrast", "saturation", "hue", "down", "right")
    return torch.tensor([[values.get(name, 0.0) for name in names]])


def test_nothing_is_changed_by_default() -> None:
    random = torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8)
    assert not AugmentConfig().enabled
    assert torch.equal(augment(random, torch.ones(2, UNIFORMS), AugmentConfig()), random)


def test_brightness_multiplies() -> None:
    changed = augment(image(100, 50, 20), uniform(brightness=0.5), AugmentConfig(brightness=0.4))
    assert changed[0, 0, 0].tolist() == [120, 60, 24]


def test_contrast_keeps_the_mean_gray_and_widens_the_rest() -> None:
    halves = torch.cat([image(100, 100, 100), image(60, 60, 60)], dim=2)
    changed = augment(halves, uniform(contrast=1.0), AugmentConfig(contrast=0.5))
    assert changed[0, 0, 0].tolist() == [110, 110, 110]
    assert changed[0, 0, -1].tolist() == [50, 50, 50]


def test_without_saturation_the_image_is_gray_of_the_same_luma() -> None:
    gray = augment(image(200, 100, 50), uniform(saturation=-1.0), AugmentConfig(saturation=1.0))[0, 0, 0].tolist()
    assert gray == [round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)] * 3


def test_hue_rotates_the_color_and_keeps_gray() -> None:
    third = AugmentConfig(hue=1 / 3)
    assert augment(image(128, 128, 128), uniform(hue=1.0), third)[0, 0, 0].tolist() == [128, 128, 128]
    red = image(140, 90, 90)
    before, after = (
        colorsys.rgb_to_hsv(*(i[0, 0, 0] / 255).tolist())[0] for i in (red, augment(red, uniform(hue=1.0), third))
    )
    rotation = (after - before) % 1
    assert min(rotation, 1 - rotation) == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize(("down", "right", "moved"), [(1.0, -1.0, (2, -2)), (-1.0, 1.0, (-2, 2)), (0.0, 0.0, (0, 0))])
def test_a_shift_moves_whole_pixels_and_repeats_the_edge(down: float, right: float, moved: tuple[int, int]) -> None:
    random = torch.randint(0, 256, (1, 7, 9, 3), dtype=torch.uint8)
    changed = augment(random, uniform(down=down, right=right), AugmentConfig(shift_px=2))
    for row in range(7):
        for column in range(9):
            from_row, from_column = min(max(row - moved[0], 0), 6), min(max(column - moved[1], 0), 8)
            assert torch.equal(changed[0, row, column], random[0, from_row, from_column])


def test_two_processes_draw_what_one_draws(samples: ChunkDataset) -> None:
    whole = samples.batch(BatchOrder(7, 4, 0, 1, 8, augment=True), 3).uniform_BU
    parts = [samples.batch(BatchOrder(7, 2, rank, 2, 8, augment=True), 3).uniform_BU for rank in (0, 1)]
    assert whole is not None
    assert torch.equal(torch.cat([part for part in parts if part is not None]), whole)
    assert whole.min() < -0.5 < 0.5 < whole.max()
    assert samples.batch(BatchOrder(7, 4, 0, 1, 8), 3).uniform_BU is None
