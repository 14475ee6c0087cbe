"""Drawn trajectories are those a robot would follow, and a picture comes out whatever the actions mean."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from stage3_eval.curves import chunk_positions, draw_curves


def test_deltas_add_up_from_the_present_position() -> None:
    positions = chunk_positions(np.array([1.0]), np.array([[0.5], [0.25]]), "delta")
    assert positions.tolist() == [[1.0], [1.5], [1.75]]


def test_next_positions_are_where_the_robot_goes() -> None:
    positions = chunk_positions(np.array([1.0]), np.array([[5.0], [6.0]]), "next_position")
    assert positions.tolist() == [[1.0], [5.0], [6.0]]


@pytest.mark.parametrize("meaning", ["delta", "next_position", None])
@pytest.mark.parametrize("frames", [1, 25])
def test_a_picture_with_a_row_per_joint_is_drawn(meaning: str | None, frames: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {
        "episode_index": np.full(frames, 2),
        "observation.state": rng.normal(size=(frames, 2)),
        "action": rng.normal(size=(frames, 2)),
    }
    facts = {"action_meaning": meaning, "units": "rad"}
    draw_curves(tmp_path / "curves.png", rows, rng.normal(size=(frames, 10, 2)), ["pan", "lift"], 30, facts)
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture is not None
    assert picture.shape[1] == (900 if meaning is None else 1500)
    assert picture.std() > 5
