"""How fast a camera sends images, where that puts the grid, and what the frames of an episode make of its images. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stage1_convert.streams.arrays import Int64
from stage1_convert.streams.clock import SECOND_NS

NEAR_SHARE = 0.1  # a camera whose rate is within a tenth of fps sends one image for each frame
MAX_LOST = 20  # images in a row; more of them are a pause
CLEAR_PHASE = 0.01  # of the length of the mean of unit vectors: below it the images lie anywhere between the frames
ROUNDED_NS = 1000  # the last bits of a sine differ between processors


class ImageCounts(NamedTuple):
    """What the frames of an episode make of a camera's images.

    `repeated` frames show the image of the frame before, `passed_over` images are in no frame although their neighbors are.
    The camera `lost` so many images. Its rate makes `unavoidable` repeats where it is slower than the frames, and as many
    images that are passed over where it `is_faster`.
    """

    frames: int
    repeated: int
    passed_over: int
    lost: int
    unavoidable: int
    is_faster: bool

    @property
    def excess(self) -> int:
        """The repeated frames or the images passed over, whichever are more, that neither loss nor rates explain."""
        slow, fast = (0, self.unavoidable) if self.is_faster else (self.unavoidable, 0)
        return max(0, self.repeated - self.lost - slow, self.passed_over - fast)


def period_of(stamps_ns: Int64) -> float | None:
    """Return the time between two images in nanoseconds, as if none had been lost; None where the stamps do not tell."""
    steps_ns = np.diff(stamps_ns)
    if not (steps_ns > 0).any():
        return None
    usual_ns = np.median(steps_ns[steps_ns > 0])
    steps_ns = steps_ns[steps_ns <= MAX_LOST * usual_ns]  # a pause says nothing
    # A lost image makes a step of two periods; a step of nearly none, after a late image, is of no period.
    return float(steps_ns.sum()) / int(np.rint(steps_ns / usual_ns).sum())


def rate_of(stamps_ns: Int64) -> float:
    """Return how many images a camera sends per second, as if none had been lost; 0 where the stamps do not tell."""
    period_ns = period_of(stamps_ns)
    return SECOND_NS / period_ns if period_ns else 0.0


def is_near_fps(stamps_ns: Int64, fps: int) -> bool:
    """Return whether a camera sends about one image for each frame."""
    return abs(rate_of(stamps_ns) / fps - 1) <= NEAR_SHARE + 1e-9


def mid_window_delay_ns(stamps_ns: Int64, start_ns: int, fps: int) -> int:
    """Return the delay of the first tick after `start_ns` at which images are half a period of the grid old on average.

    Their jitter then moves no image across a tick. The mean is that of angles: a stamp's place within the period.
    """
    period_ns = SECOND_NS / fps
    turns = (stamps_ns - start_ns) % period_ns / period_ns
    mean = complex(np.exp(2j * np.pi * turns).mean())
    phase = float(np.angle(mean)) / (2 * np.pi) if abs(mean) > CLEAR_PHASE else float(turns[0])
    return round((phase + 0.5) % 1 * period_ns / ROUNDED_NS) * ROUNDED_NS


def count_images(stamps_ns: Int64, samples: Int64, ticks_ns: Int64, fps: int) -> ImageCounts:
    """Count what the frames at `ticks_ns` (frames,) make of a camera's images, of which they show `samples` (frames,)."""
    repeated = int(np.count_nonzero(np.diff(samples) == 0))
    passed_over = int(samples[-1] - samples[0]) + 1 - len(np.unique(samples))
    period_ns = period_of(stamps_ns)
    if period_ns is None:
        return ImageCounts(len(samples), repeated, passed_over, 0, 0, False)
    first, last = np.maximum(np.searchsorted(stamps_ns, ticks_ns[[0, -1]], side="right") - 1, 0).tolist()
    expected = round(int(stamps_ns[last] - stamps_ns[first]) / period_ns)
    lost = max(0, expected + 1 - len(np.unique(stamps_ns[first : last + 1])))
    lost += max(0, round(int(ticks_ns[-1] - stamps_ns[last]) / period_ns - 0.5))  # behind the last image
    images = len(samples) * SECOND_NS / fps / period_ns
    return ImageCounts(
        len(samples), repeated, passed_over, lost, round(abs(images - len(samples))), images > len(samples)
    )


def describe_counts(counts: Sequence[ImageCounts], rate_hz: float, fps: int) -> str:
    """Say what the frames of all episodes make of a camera's images, and why."""
    frames, repeated, passed_over, lost, unavoidable = (sum(count[column] for count in counts) for column in range(5))
    return (
        f"{repeated} of {frames} frames repeat an image and {passed_over} images are in no frame; the camera lost {lost}, "
        f"and its {rate_hz:.2f} Hz at {fps} fps make {unavoidable} unavoidable"
    )
