"""The time grid of a bag, and the rules that decide which sample of a stream is shown at each tick of the grid."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from common.cli.command import UserError
from stage1_convert.streams.arrays import Bool, Int64
from stage1_convert.streams.clock import SECOND_NS

MAX_SPAN_S = 48 * 3600
LONG_PAUSE_NS = 3600 * SECOND_NS
PAUSE_EDGE_NS = 120 * SECOND_NS  # no limit of a stream is longer than a minute


class Picks(NamedTuple):
    """For every tick the index of its sample (ticks,), and whether that sample is within the limit (ticks,)."""

    samples: Int64
    within: Bool


# A rule takes stamps_ns (samples,), which never decrease, ticks_ns (ticks,) and a limit in nanoseconds.
Rule = Callable[[Int64, Int64, int], Picks]


def grid(start_ns: int, stop_ns: int, fps: int, pauses_ns: Sequence[tuple[int, int]] = ()) -> Int64:
    """Return the ticks start + k * 1e9 // fps (integers, so that they never drift) that are not after `stop_ns`.

    Those within one of `pauses_ns`, pairs of a start and an end in order, are left out. Raises UserError when more ticks
    remain than any recording has, which means that a clock jumped.
    """
    first_ticks_ns, counts, begin_ns = list[int](), list[int](), start_ns
    for pause_ns, resume_ns in [*pauses_ns, (stop_ns + 1, stop_ns + 1)]:
        first_ns = start_ns + -((start_ns - begin_ns) // SECOND_NS) * SECOND_NS  # the grid repeats itself every second
        first_ticks_ns.append(first_ns)
        counts.append(max(0, -((first_ns - min(pause_ns, stop_ns + 1)) * fps // SECOND_NS)))
        begin_ns = max(begin_ns, resume_ns)
    if sum(counts) > MAX_SPAN_S * fps:
        hours = sum(counts) / fps / 3600
        raise UserError(f"the stamps span {hours:.1f} h without a long pause: a clock jumped; look at data.time_source")
    steps = [np.arange(count, dtype=np.int64) * SECOND_NS // fps for count in counts]
    return np.concatenate([first_ns + step for first_ns, step in zip(first_ticks_ns, steps, strict=True)])


def long_pauses(streams_ns: Iterable[Int64]) -> list[tuple[int, int]]:
    """Return when some stream says nothing for more than an hour: between recordings that were merged into one bag.

    `streams_ns` are the stamps (samples,) of each stream. Near the ends of a pause, where a sample may still count, it is
    not yet one.
    """
    found = [
        (int(stamps_ns[index]) + PAUSE_EDGE_NS, int(stamps_ns[index + 1]) - PAUSE_EDGE_NS)
        for stamps_ns in streams_ns
        for index in np.flatnonzero(np.diff(stamps_ns) > LONG_PAUSE_NS)
    ]
    return sorted(found)


def hold(stamps_ns: Int64, ticks_ns: Int64, limit_ns: int) -> Picks:
    """Pick the newest sample that is not after the tick, at most `limit_ns` old."""
    before = np.searchsorted(stamps_ns, ticks_ns, side="right") - 1
    newest = np.maximum(before, 0)
    return Picks(newest, (before >= 0) & (ticks_ns - stamps_ns[newest] <= limit_ns))


def nearest(stamps_ns: Int64, ticks_ns: Int64, limit_ns: int) -> Picks:
    """Pick the closest sample, the earlier one of two, at most `limit_ns` away."""
    left, right = _neighbors(stamps_ns, ticks_ns)
    to_left, to_right = np.abs(ticks_ns - stamps_ns[left]), np.abs(stamps_ns[right] - ticks_ns)
    return Picks(np.where(to_right < to_left, right, left), np.minimum(to_left, to_right) <= limit_ns)


def linear(stamps_ns: Int64, ticks_ns: Int64, limit_ns: int) -> Picks:
    """Pick the sample before the tick, if it and the one after it are at most `limit_ns` away: no hole is bridged."""
    left, right = _neighbors(stamps_ns, ticks_ns)
    to_left, to_right = ticks_ns - stamps_ns[left], stamps_ns[right] - ticks_ns
    bracketed = (to_left <= limit_ns) & (to_right >= 0) & (to_right <= limit_ns)
    return Picks(left, (to_left >= 0) & (bracketed | (to_left == 0)))


def in_order(stamps_ns: Int64, ticks_ns: Int64, limit_ns: int) -> Picks:
    """Pick the next sample that no tick has shown, if it is not after the tick; else the last one again.

    Samples older than one and a half periods of the grid, or than `limit_ns`, are skipped where a newer one has come. Of
    samples with equal stamps the last counts.
    """
    period_ns = int(ticks_ns[1] - ticks_ns[0]) if len(ticks_ns) > 1 else limit_ns
    return in_order_after(None, stamps_ns, ticks_ns, limit_ns, period_ns)


def in_order_after(shown: int | None, stamps_ns: Int64, ticks_ns: Int64, limit_ns: int, period_ns: int) -> Picks:
    """Pick as in_order does where the tick before has shown sample `shown`, counted among those with a stamp of their own.

    It is None at the first tick of a grid, whose period is `period_ns`.
    """
    distinct = np.flatnonzero(np.diff(stamps_ns, append=stamps_ns[-1] + 1) > 0)
    stamps_ns = stamps_ns[distinct]
    reach_ns = min(limit_ns, period_ns * 3 // 2)
    newest = (np.searchsorted(stamps_ns, ticks_ns, side="right") - 1).tolist()
    oldest = np.searchsorted(stamps_ns, ticks_ns - reach_ns, side="left").tolist()
    current, found = shown, list[int]()
    for last, first in zip(newest, oldest, strict=True):
        current = last - 1 if current is None else current
        current = max(current, min(max(current + 1, first), last))
        found.append(current)
    picks = np.array(found, np.int64)
    samples = np.maximum(picks, 0)
    return Picks(distinct[samples], (picks >= 0) & (ticks_ns - stamps_ns[samples] <= limit_ns))


RULES: dict[str, Rule] = {"hold": hold, "in_order": in_order, "nearest": nearest, "linear": linear}


def _neighbors(stamps_ns: Int64, ticks_ns: Int64) -> tuple[Int64, Int64]:
    """Return the index of the last sample not after each tick, and of the one behind it, both kept within the stream."""
    before = np.searchsorted(stamps_ns, ticks_ns, side="right") - 1
    return np.maximum(before, 0), np.minimum(before + 1, len(stamps_ns) - 1)
