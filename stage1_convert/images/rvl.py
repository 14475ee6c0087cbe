"""Decompresses depth images that were compressed with RVL.

RVL is described in A. D. Wilson, "Fast Lossless Depth Image Compression", ISS 2017. Its data are 32-bit words, little
endian, each of eight nibbles from the highest to the lowest. A number takes as many nibbles as it needs, its lowest
three bits first, and the fourth bit of a nibble says that more follow. The numbers are, again and again: how many
pixels are zero, how many of those behind them are not, and for each of the latter its difference d to the last pixel
that was not zero, as 2d where d >= 0 and -2d - 1 where it is negative.
"""

import numpy as np
import numpy.typing as npt

from common.cli.command import UserError

MAX_NIBBLES = 10  # of a number: 30 bits, far more than a count of pixels or a difference has
MAX_BYTES_PER_PIXEL = 4  # a run of one pixel: a nibble for each count, and six for a difference of 17 bits


def decode_rvl(data: bytes, n_pixels: int) -> npt.NDArray[np.uint16]:
    """Return the pixels (n_pixels,); raises UserError when the data are damaged."""
    used = min(len(data), MAX_BYTES_PER_PIXEL * (n_pixels + 1)) // 4
    numbers = _numbers(np.frombuffer(data, "<u4", used))
    sources, targets, lengths = _runs(numbers, n_pixels)
    depth = np.zeros(n_pixels, np.uint16)
    if lengths.sum():
        zigzag = numbers[_indices(sources, lengths)]
        steps = (zigzag >> 1) ^ -(zigzag & 1)
        depth[_indices(targets, lengths)] = np.cumsum(steps).astype(np.uint16)
    return depth


def _numbers(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    nibbles = (words[:, None] >> np.arange(28, -1, -4, dtype=np.uint32) & 0xF).astype(np.uint8).ravel()
    ends = np.flatnonzero(nibbles < 8)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    lengths = ends - starts + 1
    if not len(ends) or lengths.max() > MAX_NIBBLES:
        raise _damaged()
    bits = (nibbles[: ends[-1] + 1] & 7).astype(np.int64)
    places = np.arange(len(bits)) - np.repeat(starts, lengths)
    return np.add.reduceat(bits << 3 * places, starts)


def _runs(numbers: npt.NDArray[np.int64], n_pixels: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Return for every run of pixels that are not zero its index in the numbers, its first pixel, and its length."""
    counts, runs = numbers.tolist(), []
    at = pixel = 0
    while pixel < n_pixels:
        if at + 1 >= len(counts):
            raise _damaged()
        pixel += counts[at]
        length = counts[at + 1]
        runs.append((at + 2, pixel, length))
        at, pixel = at + 2 + length, pixel + length
    if at > len(counts) or pixel > n_pixels:
        raise _damaged()
    sources, targets, lengths = np.array(runs, np.int64).reshape(-1, 3).T
    return sources, targets, lengths


def _indices(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return start, start + 1, ... of every run, one run after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)


def _damaged() -> UserError:
    return UserError("the image is damaged: its RVL data do not fit its size")
