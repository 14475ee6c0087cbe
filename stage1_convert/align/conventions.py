"""The meaning of the dataset's numbers: joint angles as the robot published them become states and actions."""

from collections.abc import Sequence

import numpy as np

from stage1_convert.streams.arrays import Float64


def wrap(angles: Float64) -> Float64:
    """Return `angles`, in radians, wrapped to (-pi, pi]."""
    wrapped: Float64 = angles - 2 * np.pi * np.ceil((angles - np.pi) / (2 * np.pi))
    return wrapped


def to_states(angles: Float64, signs: Sequence[float], wrapped: bool) -> Float64:
    """Return the states (frames, joints) in radians: `angles` times `signs`, wrapped to (-pi, pi] if `wrapped`."""
    states = angles * np.asarray(signs)
    return wrap(states) if wrapped else states


def to_actions(values: Float64, meaning: str, are_angles: bool = True) -> Float64:
    """Return the actions (frames, dimensions) of one episode's states: angles in radians, or a field such as a gripper's.

    delta: the step to the next state, of angles along the shortest arc, in (-pi, pi]; zero for the last frame.
    next_position: the next state; the last frame's is its own. command: the value, which was commanded.
    """
    following = np.concatenate([values[1:], values[-1:]])
    step = following - values
    return {"delta": wrap(step) if are_angles else step, "next_position": following, "command": values}[meaning]
