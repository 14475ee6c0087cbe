"""Draws random tasks (a start of the arm and a position of the target), and computes the motion of an expert for each.

The expert knows the target: it moves all joints along one minimum-jerk curve to the hover point above it, and holds.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from demo import scene
from demo.arm import Array, joints_pointing_down, tool_position

HOVER_M = 0.05  # the goal: the height of the tool tip above the center of the target
MOVE_S = 1.4
EPISODE_S = 1.6  # after the move, the arm holds still: longer, and a policy learns to stay where it is

# The random numbers of a task come from (seed, stream, index): recordings and rollouts have different targets even with
# the same seed.
RECORDING_STREAM, ROLLOUT_STREAM = 0, 1

START_Z_M = (0.10, 0.35)
START_SPREAD = 0.04  # rad, standard deviation per joint: the tool starts slightly tilted, which a policy must correct
START_AWAY_M = 0.10  # smallest distance of a start from its goal
VISIBLE_PX = 20  # pixels of the target that the camera must see at the start


class Task(NamedTuple):
    """The joint angles (6,) at the start, the center of the target on the table, xy (2,) in meters, and the cell."""

    start: Array
    target_xy_m: Array
    cell: scene.Cell = scene.FRONT


def task_rng(seed: int, stream: int, index: int) -> np.random.Generator:
    """Return the random generator of task `index` of a stream, RECORDING_STREAM or ROLLOUT_STREAM."""
    return np.random.default_rng([seed, stream, index])


def sample_task(rng: np.random.Generator, cell: scene.Cell = scene.FRONT) -> Task:
    """Draw a target, uniform over the workspace, and a start with the tool anywhere above the workspace.

    A start that is close to the goal is drawn again, and so is one in which the arm hides the target from the camera.
    """
    low, high = np.array([scene.WORKSPACE_X_M, scene.WORKSPACE_Y_M, START_Z_M]).T
    target_xy_m = rng.uniform(low[:2], high[:2])
    while True:
        start = joints_pointing_down(rng.uniform(low, high)) + rng.normal(0.0, START_SPREAD, 6)
        away_m = np.linalg.norm(tool_position(start) - hover_point(target_xy_m))
        task = Task(start, target_xy_m, cell)
        if away_m >= START_AWAY_M and scene.target_pixels(picture(task, start)) >= VISIBLE_PX:
            return task


def picture(
    task: Task, joints: npt.ArrayLike, height_px: int = scene.HEIGHT_PX, width_px: int = scene.WIDTH_PX
) -> scene.Image:
    """Return what the camera of the task's cell sees, (height_px, width_px, 3) uint8 RGB, for joint angles (6,)."""
    return scene.render(joints, task.target_xy_m, height_px, width_px, task.cell)


def hover_point(target_xy_m: npt.ArrayLike) -> Array:
    """Return the goal of the tool tip, (..., 3) in meters, for targets at xy (..., 2)."""
    xy = np.asarray(target_xy_m, np.float64)
    return np.concatenate([xy, np.full((*xy.shape[:-1], 1), HOVER_M)], axis=-1)


def motion(task: Task, time_s: npt.ArrayLike) -> tuple[Array, Array]:
    """Return joint positions and velocities, (T, 6) each in rad and rad/s, at times (T,) since the episode's start.

    Minimum jerk from rest to rest: Flash and Hogan, "The coordination of arm movements", J. Neurosci. 5 (1985).
    """
    phase = np.clip(np.asarray(time_s, np.float64) / MOVE_S, 0.0, 1.0)[:, None]
    distance = joints_pointing_down(hover_point(task.target_xy_m)) - task.start
    positions = task.start + distance * (10 * phase**3 - 15 * phase**4 + 6 * phase**5)
    velocities = distance * (30 * phase**2 - 60 * phase**3 + 30 * phase**4) / MOVE_S
    return positions, velocities
