"""Divides the stretches of frames between gaps into episodes: by markers, pauses, idle ends and length."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from stage1_convert.config import DataConfig
from stage1_convert.streams.angles import shortest
from stage1_convert.streams.arrays import Bool, Float64

# An arm is at rest while no joint turns faster than half a degree per second: above the noise of an encoder, below any
# motion that somebody meant.
REST_RAD_S = 0.01
# A number in a unit of its own, such as a gripper's opening, is at rest while it stays within this share of its range in the
# bag for a quarter of a second: above the flicker of a sensor, below a gripper that takes ten seconds to close.
REST_SHARE, REST_WINDOW_S = 0.02, 0.25


class Span(NamedTuple):
    """The frames `start` to `stop` (half open) of the grid, and why they begin where they do or are left out."""

    start: int
    stop: int
    reason: str

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.stop - self.start


class Division(NamedTuple):
    """The episodes, and the frames that belong to none of them."""

    episodes: list[Span]
    left_out: list[Span]


def divide(stretches: list[Span], cuts: Iterable[int], resting: Bool, data: DataConfig) -> Division:
    """Divide the stretches between gaps into episodes.

    An episode begins at each of the frames `cuts`, which ascend. `resting` (frames,) tells in which frames of the grid the
    arm is at rest.
    """
    left_out: list[Span] = []
    if data.on_gap == "drop" and stretches:
        longest = max(stretches, key=lambda span: span.frames)
        left_out += [span._replace(reason="shorter_piece") for span in stretches if span is not longest]
        stretches = [longest]
    pieces = [piece for span in stretches for piece in _cut(span, cuts)]
    if data.split_pause_s > 0:
        pieces = [part for piece in pieces for part in _without_pauses(piece, resting, data, left_out)]
    if data.trim_idle_s > 0:
        pieces = [_without_idle_ends(piece, resting, data, left_out) for piece in pieces]
    longest_frames = max(2, math.floor(data.max_episode_s * data.fps + 1e-9))
    episodes = []
    for piece in pieces:
        if piece.frames >= shortest_frames(data):
            episodes += _cut_evenly(piece, longest_frames)
        elif piece.frames:
            left_out.append(piece._replace(reason="min_episode_s"))
    return Division(episodes, sorted(left_out))


def shortest_frames(data: DataConfig) -> int:
    """Return the number of frames that an episode has at least."""
    return max(2, math.ceil(data.min_episode_s * data.fps - 1e-9))


def at_rest(angles: Float64, others: Sequence[Float64], fps: int) -> Bool:
    """Return for each frame whether no joint moves until the next one, and no other number of the action soon after.

    Steps of the `angles` (frames, joints), in radians, are taken along the shortest arc; each of `others` (frames,) is in a
    unit of its own. The last frame leads nowhere and does not rest; neither do unknown angles (NaN).
    """
    with np.errstate(invalid="ignore"):  # infinite angles, which are refused where a frame shows them
        step = shortest(np.diff(angles, axis=0))
    resting: Bool = np.append(np.all(np.abs(step) * fps < REST_RAD_S, axis=1), False)[: len(angles)]
    for values in others:
        resting &= _keeps_still(values, fps)
    return resting


def _keeps_still(values: Float64, fps: int) -> Bool:
    """Return for each of the frames `values` (frames,) whether what follows stays within REST_SHARE of the whole range."""
    frames = math.ceil(REST_WINDOW_S * fps)
    ahead = np.lib.stride_tricks.sliding_window_view(np.append(values, np.repeat(values[-1:], frames)), frames + 1)
    still: Bool = np.ptp(ahead, axis=1) <= REST_SHARE * np.ptp(values)
    return still


def runs(flags: Bool) -> list[tuple[int, int]]:
    """Return the half-open runs of true values in `flags`, in order."""
    edges = [*(np.flatnonzero(flags[1:] != flags[:-1]) + 1).tolist(), len(flags)] if len(flags) else []
    return [(start, stop) for start, stop in itertools.pairwise([0, *edges]) if flags[start]]


def _cut(span: Span, cuts: Iterable[int]) -> Iterator[Span]:
    start, reason = span.start, span.reason
    for cut in cuts:
        if start < cut < span.stop:
            yield Span(start, cut, reason)
            start, reason = cut, "marker"
    yield Span(start, span.stop, reason)


def _resting_within(piece: Span, resting: Bool) -> Bool:
    """Return whether the arm rests in each frame of a piece; the last one is like the one before it, as its motion leads
    out of the piece."""
    within = resting[piece.start : piece.stop].copy()
    within[-1:] = within[-2:-1] if len(within) > 1 else False
    return within


def _without_pauses(piece: Span, resting: Bool, data: DataConfig, left_out: list[Span]) -> Iterator[Span]:
    """Cut the rests of at least data.split_pause_s out of a piece; the next part begins with the last frame at rest,
    as a frame at rest is one without motion until the next frame."""
    shortest = math.ceil(data.split_pause_s * data.fps - 1e-9)
    start, reason = piece.start, piece.reason
    for first, stop in runs(_resting_within(piece, resting)):
        if stop - first >= shortest:
            arrival = 1 if first > 0 else 0  # an episode ends with the frame in which the arm has come to rest
            pause = Span(piece.start + first + arrival, piece.start + stop, "pause")
            left_out.append(pause)
            if pause.start > start:
                yield Span(start, pause.start, reason)
            start, reason = pause.stop, "pause"
    if start < piece.stop:
        yield Span(start, piece.stop, reason)


def _without_idle_ends(piece: Span, resting: Bool, data: DataConfig, left_out: list[Span]) -> Span:
    """Cut all but data.trim_idle_s of the rest at both ends of a piece."""
    keep = math.ceil(data.trim_idle_s * data.fps - 1e-9)
    moving = np.flatnonzero(~_resting_within(piece, resting))
    first, stop = 0, min(keep, piece.frames)
    if len(moving):
        first, stop = max(0, int(moving[0]) - keep), min(piece.frames, int(moving[-1]) + 1 + keep)
    kept = piece._replace(start=piece.start + first, stop=piece.start + stop)
    ends = [Span(piece.start, kept.start, "idle"), Span(kept.stop, piece.stop, "idle")]
    left_out += [end for end in ends if end.frames]
    return kept


def _cut_evenly(piece: Span, longest: int) -> list[Span]:
    """Cut a piece into the fewest parts of at most `longest` frames, equally long to a frame: cutting off full lengths
    first could leave an end too short to keep."""
    count = -(-piece.frames // longest)
    edges = [piece.start + piece.frames * part // count for part in range(count + 1)]
    reasons = itertools.chain([piece.reason], itertools.repeat("max_episode_s"))
    return [
        Span(start, stop, reason) for (start, stop), reason in zip(itertools.pairwise(edges), reasons, strict=False)
    ]
