import numpy as np

from demo import scene
from demo.arm import tool_position
from demo.expert import (
    HOVER_M,
    RECORDING_STREAM,
    ROLLOUT_STREAM,
    START_AWAY_M,
    VISIBLE_PX,
    Task,
    picture,
    sample_task,
    task_rng,
)


def tasks(stream: int) -> list[Task]:
    return [sample_task(task_rng(0, stream, index)) for index in range(50)]


def test_rollouts_and_recordings_have_different_targets_even_with_the_same_seed() -> None:
    recorded = np.stack([task.target_xy_m for task in tasks(RECORDING_STREAM)])
    held_out = np.stack([task.target_xy_m for task in tasks(ROLLOUT_STREAM)])
    assert np.linalg.norm(recorded[:, None] - held_out, axis=-1).min() > 1e-6


def test_every_start_is_away_from_its_goal_and_lets_the_camera_see_the_target() -> None:
    for task in tasks(RECORDING_STREAM):
        away_m = np.linalg.norm(tool_position(task.start) - [*task.target_xy_m, HOVER_M])
        assert away_m >= START_AWAY_M
        assert scene.target_pixels(picture(task, task.start)) >= VISIBLE_PX
