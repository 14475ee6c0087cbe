import itertools

import numpy as np
import pytest

from demo import scene
from demo.arm import joints_pointing_down, tool_position
from demo.expert import hover_point
from demo.scene import CELLS, Cell, Image, project, render, target_pixels

HOME = joints_pointing_down((-0.6, 0.25, 0.2))
OUT_OF_SIGHT = (5.0, 5.0)
GRID = list(itertools.product(np.linspace(*scene.WORKSPACE_X_M, 7), np.linspace(*scene.WORKSPACE_Y_M, 7)))


def red_center(image: Image) -> np.ndarray:
    red = image[..., 0].astype(float) - image[..., 1:].max(axis=-1)
    red = np.clip(red - 30, 0, None)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(columns * red).sum() / red.sum(), (rows * red).sum() / red.sum()])


def test_the_target_is_drawn_where_the_camera_model_says() -> None:
    target = (-0.85, -0.1)
    expected = project([(*target, 0.0)]).pixels[0]
    np.testing.assert_allclose(red_center(render(HOME, target)), expected, atol=0.3)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_target_is_visible_with_the_arm_away_and_below_the_tool_whose_tip_is_green(cell: Cell) -> None:
    for target in GRID:
        away = (-0.55, 0.3 if target[1] < 0 else -0.3, 0.35)
        assert target_pixels(render(joints_pointing_down(away), target, cell=cell)) >= 25, target
        joints = joints_pointing_down(hover_point(target))
        image = render(joints, target, cell=cell)
        assert target_pixels(image) >= 20, target
        column, row = np.floor(project([tool_position(joints)], cell=cell).pixels[0]).astype(int)
        red, green, blue = image[row, column].astype(int)
        assert green > max(red, blue) + 80, target


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_nothing_but_the_target_counts_as_target(cell: Cell) -> None:
    rng = np.random.default_rng(0)
    low, high = np.array([scene.WORKSPACE_X_M, scene.WORKSPACE_Y_M, (0.05, 0.35)]).T
    for xyz in rng.uniform(low, high, (50, 3)):
        assert target_pixels(render(joints_pointing_down(xyz), OUT_OF_SIGHT, cell=cell)) == 0


def test_any_pose_is_drawn_even_one_that_passes_through_the_camera() -> None:
    for joints in np.random.default_rng(0).uniform(-4, 4, (300, 6)):
        render(joints, (-0.8, 0.0))
