"""Drawn trajectories are those a robot would follow, and an image comes out whatever the actions mean."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from stage3_eval.report.curves import EpisodeCurves, chunk_positions, draw_curves
from tests.stage3_eval.summaries import make_summary


def test_deltas_add_up_from_the_present_position() -> None:
    positions = chunk_positions(np.array([1.0]), np.array([[0.5], [0.25]]), "delta")
    assert positions.tolist() == [[1.0], [1.5], [1.75]]


def test_next_positions_are_where_the_robot_goes() -> None:
    positions = chunk_positions(np.array([1.0]), np.array([[5.0], [6.0]]), "next_position")
    assert positions.tolist() == [[1.0], [5.0], [6.0]]


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("frames", [1, 25])
def test_an_image_with_a_row_per_joint_is_drawn(positions: bool, frames: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    header = make_summary([1.0], fps=30, joint_names=["pan", "lift"])
    recorded, executed, position = rng.normal(size=(3, frames, 2))
    fans = [(start, rng.normal(size=(10, 2))) for start in range(0, frames, 5)]
    episode = EpisodeCurves(2, recorded, executed, position if positions else None, fans)
    draw_curves(tmp_path / "curves.png", episode, header)
    image = cv2.imread(str(tmp_path / "curves.png"))
    assert image is not None
    assert image.shape[1] == (1500 if positions else 900)
    assert image.std() > 5
