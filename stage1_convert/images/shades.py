"""Numbers of more than 8 bits to shades of 8 bits, by a range that is the same for all images of a camera.

Depth has nearest 0 and farthest 255; what was not measured (0, NaN) becomes 0, too. Gray of 16 bits has the low end of
the range 0 and the high end 255.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]  # (height, width)

MM_PER_M = 1000.0


class Measured(NamedTuple):
    """What was measured: its lowest and highest number, and the share (0 to 1) of it that lies outside the range."""

    lowest: float
    highest: float
    clipped: float


Shades = npt.NDArray[np.uint8]  # (height, width)


def depth_in_m(depth_m: Numbers, range_m: tuple[float, float]) -> tuple[Shades, Measured | None]:
    """Return the shades of depth in meters; infinity is farthest, and does not count as measured."""
    near_m, far_m = range_m
    known = depth_m[np.isfinite(depth_m) & (depth_m > 0)]
    return _shade(depth_m, near_m, far_m), _measured(known, near_m, far_m)


def depth_in_mm(depth_mm: Numbers, range_m: tuple[float, float]) -> tuple[Shades, Measured | None]:
    """Return the shades of depth in millimeters, uint16."""
    near_m, far_m = range_m
    shades = _shade_of_every_mm(near_m, far_m)[depth_mm]
    n_known = int(np.count_nonzero(depth_mm))
    if not n_known:
        return shades, None
    lowest = int((depth_mm - np.uint16(1)).min()) + 1  # what was not measured wraps around to the highest
    near = int(np.count_nonzero(depth_mm < math.ceil(near_m * MM_PER_M)))
    far = int(np.count_nonzero(depth_mm > math.floor(far_m * MM_PER_M)))
    outside = far + max(0, near - (depth_mm.size - n_known))
    return shades, Measured(lowest, int(depth_mm.max()), outside / n_known)


def gray(values: Numbers, low_high: tuple[int, int]) -> tuple[Shades, Measured | None]:
    """Return the shades of gray of 16 bits, uint16."""
    low, high = low_high
    return _shade_of_every_gray(low, high)[values], _measured(values, low, high)


def _measured(known: Numbers, low: float, high: float) -> Measured | None:
    if not known.size:
        return None
    outside = int(np.count_nonzero(known < low)) + int(np.count_nonzero(known > high))
    return Measured(float(known.min()), float(known.max()), outside / known.size)


def _shade(depth_m: Numbers, near_m: float, far_m: float) -> Shades:
    measured = np.nan_to_num(depth_m.astype(np.float32), nan=0.0, posinf=far_m, neginf=0.0)
    scaled = np.clip((measured - near_m) * (255.0 / (far_m - near_m)), 0, 255)
    return np.where(measured > 0, np.rint(scaled), 0).astype(np.uint8)


@functools.cache
def _shade_of_every_mm(near_m: float, far_m: float) -> Shades:
    depth_m: Numbers = np.arange(1 << 16, dtype=np.float64) / MM_PER_M
    return _shade(depth_m, near_m, far_m)


@functools.cache
def _shade_of_every_gray(low: int, high: int) -> Shades:
    scaled = np.clip((np.arange(1 << 16, dtype=np.float64) - low) * (255.0 / (high - low)), 0, 255)
    return np.asarray(np.rint(scaled), np.uint8)
