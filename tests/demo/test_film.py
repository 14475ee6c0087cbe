"""The film shows the rollouts as they went: every step, the trained policy on the left, the untrained one on the right."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from demo.film import HOLD_S, PANEL_PX, TITLE_PX, draw_film, write_film
from demo.rollout import Rollouts, held_out_tasks
from demo.scene import render

TASKS = held_out_tasks(7, 2)
STARTS = np.stack([task.start for task in TASKS])
STEPS = 12
HOLD = round(HOLD_S * 30)


def moved(change: float) -> Rollouts:
    """Arms whose joints turn by so many radians at each step."""
    return Rollouts(TASKS, STARTS[:, None] + change * np.arange(STEPS)[None, :, None], 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    write_film(folder, moved(0.02), moved(0.0), 0.03)
    return folder


def test_it_is_an_h264_video_with_every_step_of_every_rollout(folder: Path) -> None:
    with av.open(str(folder / "rollout.mp4")) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == Fraction(30)
        assert sum(1 for _ in file.decode(stream)) == 2 * (STEPS + HOLD)


def test_the_preview_is_animated(folder: Path) -> None:
    done, animation = cv2.imreadanimation(str(folder / "rollout.webp"))
    assert done
    assert sum(animation.durations) == 100 * len(range(0, 2 * (STEPS + HOLD), 3))  # equal frames are one, shown longer
    assert animation.frames[0].shape[1] == 480


def test_the_trained_arm_is_on_the_left_and_the_untrained_on_the_right() -> None:
    frame = list(draw_film(moved(0.02), moved(0.0), 0.03))[STEPS + HOLD + 5]
    height, width = PANEL_PX
    rows = slice(TITLE_PX, TITLE_PX + height)
    target = TASKS[1].target_xy_m
    left, right = frame[rows, 2 : 2 + width], frame[rows, 6 + width : 6 + 2 * width]
    assert np.array_equal(left, render(STARTS[1] + 5 * 0.02, target, height, width))
    assert np.array_equal(right, render(STARTS[1], target, height, width))
