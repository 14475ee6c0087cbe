"""Joint angles among the numbers of a stream: which they are, and what lies between two of them. Pure."""

from collections.abc import Sequence

import numpy as np

from stage1_convert.config import Config
from stage1_convert.streams.arrays import Bool, Float64, Int64


def is_angle(names: Sequence[str], config: Config) -> Bool:
    """Return (names,), which of a stream's numbers are joint angles."""
    return np.array([name in config.conventions.joint_order for name in names], np.bool_)


def shortest(difference: Float64) -> Float64:
    """Return differences of angles, in radians, along the shortest arc: in [-pi, pi]."""
    arc: Float64 = difference - 2 * np.pi * np.round(difference / (2 * np.pi))
    return arc


def interpolate(stamps_ns: Int64, values: Float64, ticks_ns: Int64, left: Int64, are_angles: Bool) -> Float64:
    """Return values (ticks, dimensions) between the samples `left` and `left` + 1.

    `are_angles` (dimensions,) marks angles, in radians, which are interpolated along the shortest arc.
    """
    right = np.minimum(left + 1, len(stamps_ns) - 1)
    span = np.maximum(stamps_ns[right] - stamps_ns[left], 1)
    weight = np.clip((ticks_ns - stamps_ns[left]) / span, 0.0, 1.0)[:, None]
    step = values[right] - values[left]
    step[:, are_angles] = shortest(step[:, are_angles])
    # At weight 0 the left sample itself is returned, to the bit, even where the right one is no number.
    blended: Float64 = np.where(weight > 0, values[left] + step * weight, values[left])
    return blended
