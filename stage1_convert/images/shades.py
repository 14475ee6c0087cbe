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


class Shades(NamedTuple):
    """Shades (height, width) uint8, and the share (0 to 1) of the measured numbers that lie outside the range."""

    values: npt.NDArray[np.uint8]
    clipped: float


def depth_in_m(depth_m: Numbers, range_m: tuple[float, float]) -> Shades:
    """Return the shades of depth in meters; infinity is farthest, and counts neither as measured nor as clipped."""
    near_m, far_m = range_m
    known = np.isfinite(depth_m) & (depth_m > 0)
    outside = known & ((depth_m < near_m) | (depth_m > far_m))
    return Shades(_shade(depth_m, near_m, far_m), _share(outside, known))


def depth_in_mm(depth_mm: Numbers, range_m: tuple[float, float]) -> Shades:
    """Return the shades of depth in millimeters, uint16."""
    near_mm, far_mm = math.ceil(range_m[0] * MM_PER_M), math.floor(range_m[1] * MM_PER_M)
    known = depth_mm > 0
    outside = known & ((depth_mm < near_mm) | (depth_mm > far_mm))
    near_m, far_m = range_m
    return Shades(_shade_of_every_mm(near_m, far_m)[depth_mm], _share(outside, known))


def gray(values: Numbers, low_high: tuple[int, int]) -> Shades:
    """Return the shades of gray of 16 bits, uint16."""
    low, high = low_high
    outside = (values < low) | (values > high)
    return Shades(_shade_of_every_gray(low, high)[values], int(np.count_nonzero(outside)) / values.size)


def _share(outside: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> float:
    n_known = int(np.count_nonzero(known))
    return int(np.count_nonzero(outside)) / n_known if n_known else 0.0


def _shade(depth_m: Numbers, near_m: float, far_m: float) -> npt.NDArray[np.uint8]:
    measured = np.nan_to_num(depth_m.astype(np.float32), nan=0.0, posinf=far_m, neginf=0.0)
    scaled = np.clip((measured - near_m) * (255.0 / (far_m - near_m)), 0, 255)
    return np.where(measured > 0, np.rint(scaled), 0).astype(np.uint8)


@functools.cache
def _shade_of_every_mm(near_m: float, far_m: float) -> npt.NDArray[np.uint8]:
    depth_m: Numbers = np.arange(1 << 16, dtype=np.float64) / MM_PER_M
    return _shade(depth_m, near_m, far_m)


@functools.cache
def _shade_of_every_gray(low: int, high: int) -> npt.NDArray[np.uint8]:
    scaled = np.clip((np.arange(1 << 16, dtype=np.float64) - low) * (255.0 / (high - low)), 0, 255)
    return np.asarray(np.rint(scaled), np.uint8)
