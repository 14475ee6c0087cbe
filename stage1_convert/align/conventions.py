"""The meaning of the dataset's numbers: joint angles as the robot published them become states and actions."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def wrap(angles: Float64) -> Float64:
    """Return `angles`, in radians, wrapped to (-pi, pi]."""
    wrapped: Float64 = angles - 2 * np.pi * np.ceil((angles - np.pi) / (2 * np.pi))
    return wrapped


def to_states(angles: Float64, sign: Sequence[float] | Float64 | None, wrapped: bool) -> Float64:
    """Return the states (frames, joints) in radians: `angles` times `sign`, wrapped to (-pi, pi] if `wrapped`."""
    states = angles if sign is None else angles * np.asarray(sign)
    return wrap(states) if wrapped else states


def to_actions(states: Float64, meaning: str) -> Float64:
    """Return the actions (frames, joints) of one episode's states, in radians.

    delta: the step to the next state along the shortest arc, in (-pi, pi]; zero for the last frame.
    next_position: the next state; the last frame's is its own.
    """
    following = np.concatenate([states[1:], states[-1:]])
    return wrap(following - states) if meaning == "delta" else following


def to_field_actions(values: Float64, meaning: str) -> Float64:
    """Return the actions (frames, 1) of a state field that is no angle, such as a gripper's opening.

    delta: the difference to the next value; next_position: the next value; command: the value, which was commanded.
    """
    following = np.concatenate([values[1:], values[-1:]])
    return {"delta": following - values, "next_position": following, "command": values}[meaning]
