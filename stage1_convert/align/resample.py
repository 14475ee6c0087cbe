"""The stamps of several streams in; an exact fps grid, and which sample of a stream each of its ticks gets, out."""

import itertools
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from common.cli.command import UserError

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

SECOND_NS = 1_000_000_000
# A header clock further than this from the receive clock, or wandering more than this against it, is another clock:
# simulation time, a camera's own uptime, an unset system clock.
MAX_CLOCK_OFFSET_NS = SECOND_NS // 2
SAMPLED_STAMPS = 1_000_000  # enough for the delays' quantiles; beyond that, evenly spread ones are taken
MAX_SPAN_NS = 48 * 3600 * SECOND_NS
# An arm rests while no joint turns faster than half a degree per second: above an encoder's noise, below any motion
# that somebody meant.
REST_RAD_S = 0.01


class Clock(NamedTuple):
    """The stamps a stream is aligned by, where they come from and why, and the median header-to-receive delay."""

    stamps_ns: Int64
    source: str
    reason: str
    latency_ms: float | None


class StampOrder:
    """Whether the header stamps of a stream, which come a few at a time, are set and in order, and how many repeat."""

    def __init__(self) -> None:
        self.repeats = 0
        self._stamps = self._zero = self._back = self._first_back = 0
        self._last_ns: Int64 = np.zeros(0, np.int64)

    def add(self, header_ns: Int64) -> None:
        """Take the next stamps."""
        steps_ns = np.diff(np.concatenate([self._last_ns, header_ns]))
        self.repeats += int(np.count_nonzero(steps_ns == 0))
        back = np.flatnonzero(steps_ns < 0)
        if len(back) and not self._back:
            self._first_back = self._stamps - len(self._last_ns) + int(back[0]) + 1
        self._back += len(back)
        self._zero += int(np.count_nonzero(header_ns <= 0))
        self._stamps += len(header_ns)
        self._last_ns = header_ns[-1:].copy() if len(header_ns) else self._last_ns

    @property
    def fault(self) -> str | None:
        """What is wrong with them."""
        if self._zero:
            return f"{self._zero} of {self._stamps} header stamps are zero"
        if self._back:
            return f"header stamps go back {self._back} times, first at message {self._first_back}"
        return None


def sampled_step(stamps: int) -> int:
    """Return the step at which so many stamps are looked at for their delays."""
    return 1 + stamps // SAMPLED_STAMPS


def choose_clock(header_ns: Int64, receive_ns: Int64, order: StampOrder, wanted: str) -> Clock:
    """Choose between header and receive stamps, both (messages,), of one stream, of which those of every sampled_step are
    enough; `order` is that of all header stamps, and `wanted` auto, header or receive.

    Raises UserError when header stamps are demanded and are zero or go back.
    """
    delays_ns = receive_ns - header_ns
    known_ns = delays_ns[header_ns > 0]
    latency_ms = round(float(np.median(known_ns)) / 1e6, 3) if len(known_ns) else None
    if wanted == "header":
        if order.fault:
            raise UserError(f"{order.fault}; set data.time_source to auto or receive")
        return Clock(header_ns, "header", "configured", latency_ms)
    fault = order.fault or _offset_fault(delays_ns)
    if wanted == "receive" or fault:
        return Clock(receive_ns, "receive", fault if wanted == "auto" and fault else "configured", latency_ms)
    told = f"; {order.repeats} repeat the one before" if order.repeats else ""
    return Clock(header_ns, "header", f"header stamps are in order and near the receive times{told}", latency_ms)


def _offset_fault(delays_ns: Int64) -> str | None:
    # No message is received before it is sent: that clock was set ahead, even where only the last ones say so.
    ahead_ns = -int(delays_ns.min())
    if ahead_ns > MAX_CLOCK_OFFSET_NS:
        return f"header stamps lie up to {ahead_ns / SECOND_NS:.3f} s after the receive times"
    low, middle, high = np.quantile(delays_ns, (0.05, 0.5, 0.95))  # a stalled recorder is no fault
    if middle > MAX_CLOCK_OFFSET_NS:
        return f"header stamps lie {middle / SECOND_NS:.3f} s before the receive times"
    if high - low > MAX_CLOCK_OFFSET_NS:
        return f"header stamps wander by {(high - low) / SECOND_NS:.3f} s against the receive times"
    return None


class Grid:
    """The ticks start + k * 1e9 // fps for k from 0 to `count` - 1: integer arithmetic, so they never drift. They are
    computed where they are looked at.
    """

    def __init__(self, start_ns: int, fps: int, count: int) -> None:
        self._start_ns, self._fps, self._count = start_ns, fps, count

    def __len__(self) -> int:
        """Return the number of ticks."""
        return self._count

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> Int64: ...
    def __getitem__(self, at: int | slice) -> int | Int64:
        """Return one tick, or those of a slice."""
        if isinstance(at, slice):
            return self._start_ns + np.arange(*at.indices(self._count), dtype=np.int64) * SECOND_NS // self._fps
        return self._start_ns + range(self._count)[at] * SECOND_NS // self._fps

    def first_from(self, times_ns: Int64) -> list[int]:
        """Return for each of these times the number of the first tick that is not before it."""
        after = ((int(time_ns) - self._start_ns) * self._fps for time_ns in times_ns)
        return [min(max(-(-units // SECOND_NS), 0), self._count) for units in after]


def grid(start_ns: int, stop_ns: int, fps: int) -> Grid:
    """Return the ticks from `start_ns` on that are not after `stop_ns`.

    Raises UserError when the span is longer than any recording, which means that a clock jumped.
    """
    if stop_ns - start_ns > MAX_SPAN_NS:
        raise UserError(f"the stamps span {(stop_ns - start_ns) / SECOND_NS / 3600:.1f} h: a clock jumped")
    count = ((stop_ns - start_ns + 1) * fps - 1) // SECOND_NS + 1 if stop_ns >= start_ns else 0
    return Grid(start_ns, fps, count)


def pick(stamps_ns: Int64, ticks_ns: Int64, rule: str, limit_ns: int) -> tuple[Int64, Bool]:
    """Return for every tick the index of its sample, and whether that sample is acceptable.

    `stamps_ns` (samples,) is non-decreasing. hold: the newest sample not after the tick, at most `limit_ns` old.
    nearest: the closest, the earlier on a tie, at most `limit_ns` off. linear: the sample before the tick, when it and
    the one after are at most `limit_ns` off, so that no hole is bridged.
    """
    before = np.searchsorted(stamps_ns, ticks_ns, side="right").astype(np.int64) - 1
    left, right = np.maximum(before, 0), np.minimum(before + 1, len(stamps_ns) - 1)
    to_left, to_right = np.abs(ticks_ns - stamps_ns[left]), np.abs(stamps_ns[right] - ticks_ns)
    if rule == "hold":
        return left, (before >= 0) & (to_left <= limit_ns)
    if rule == "nearest":
        return np.where(to_right < to_left, right, left), np.minimum(to_left, to_right) <= limit_ns
    bracketed = (ticks_ns <= stamps_ns[right]) & (to_left <= limit_ns) & (to_right <= limit_ns)
    return left, (before >= 0) & (bracketed | (to_left == 0))


def interpolate(stamps_ns: Int64, values: Float64, ticks_ns: Int64, left: Int64, angular: Bool) -> Float64:
    """Return values (ticks, dimensions) between the samples `left` and `left` + 1.

    `angular` (dimensions,) marks angles, in radians, which take the shorter way around.
    """
    right = np.minimum(left + 1, len(stamps_ns) - 1)
    span = np.maximum(stamps_ns[right] - stamps_ns[left], 1)
    weight = np.clip((ticks_ns - stamps_ns[left]) / span, 0.0, 1.0)[:, None]
    step = values[right] - values[left]
    step -= np.where(angular, 2 * np.pi * np.round(step / (2 * np.pi)), 0.0)
    # Where both ends are far off, one at weight 0 or 1 must still be met to the bit.
    blended: Float64 = np.where(weight > 0, values[left] + step * weight, values[left])
    return blended


def runs(good: Bool) -> list[tuple[int, int]]:
    """Return the half-open runs of true values in `good`, in order."""
    edges = [*(np.flatnonzero(good[1:] != good[:-1]) + 1).tolist(), len(good)] if len(good) else []
    return [(start, stop) for start, stop in itertools.pairwise([0, *edges]) if good[start]]


def resting(angles: Float64, fps: int) -> Bool:
    """Return for each of the frames `angles` (frames, joints) whether no joint moves on the way to the next frame.

    Radians, the shorter way around; the last frame is like the one before it, and unknown angles (NaN) never rest.
    """
    step = np.diff(angles, axis=0)
    step -= 2 * np.pi * np.round(step / (2 * np.pi))
    still: Bool = np.all(np.abs(step) * fps < REST_RAD_S, axis=1)  # false for NaN, too
    return np.concatenate([still, still[-1:]]) if len(still) else np.zeros(len(angles), np.bool_)


def trim(still: Bool, keep: int) -> tuple[int, int]:
    """Return the half-open range of frames that is left when all but `keep` frames of rest are cut from both ends."""
    moving = np.flatnonzero(~still)
    if not len(moving):
        return 0, min(keep, len(still))
    return max(0, int(moving[0]) - keep), min(len(still), int(moving[-1]) + 1 + keep)


def cut_evenly(start: int, stop: int, longest: int) -> list[tuple[int, int]]:
    """Return the fewest consecutive ranges of at most `longest` frames, equally long to a frame, that fill the range:
    cutting off full lengths first could leave an end too short to keep.
    """
    count = -(-(stop - start) // longest)
    edges = [start + (stop - start) * k // count for k in range(count + 1)]
    return list(itertools.pairwise(edges))
