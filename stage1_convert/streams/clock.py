"""Decides for each stream whether its messages are placed in time by their header stamps or by their receive times."""

from typing import NamedTuple

import numpy as np

from common.cli.command import UserError
from stage1_convert.streams.arrays import Int64

SECOND_NS = 1_000_000_000
# A header clock further than this from the receive clock, or drifting by more than this against it, is another clock:
# simulation time, the uptime of a camera, an unset system clock.
MAX_CLOCK_OFFSET_NS = SECOND_NS // 2


class Clock(NamedTuple):
    """The stamps a stream is aligned by.

    `source` is header or receive, `reason` says why, and `latency_ms` is the median of receive time minus header stamp.
    """

    stamps_ns: Int64
    source: str
    reason: str
    latency_ms: float | None


def choose_clock(header_ns: Int64, receive_ns: Int64, wanted: str) -> Clock:
    """Choose between the header stamps and the receive times of one stream, both (samples,); `wanted` is auto, header
    or receive.

    Raises UserError when header stamps are demanded but are zero or go back.
    """
    delays_ns = receive_ns - header_ns
    timed = receive_ns > 0  # a recorder that waits for simulation time notes 0
    known_ns = delays_ns[timed & (header_ns > 0)]
    latency_ms = round(float(np.median(known_ns)) / 1e6, 3) if len(known_ns) else None
    fault = _order_fault(header_ns)
    if wanted == "header":
        if fault:
            raise UserError(f"{fault}; set data.time_source to auto or receive")
        return Clock(header_ns, "header", "configured", latency_ms)
    fault = fault or _offset_fault(delays_ns[timed])
    if wanted == "receive" or fault:
        return Clock(receive_ns, "receive", fault if wanted == "auto" and fault else "configured", latency_ms)
    repeats = int(np.count_nonzero(np.diff(header_ns) == 0))
    note = f"; {repeats} repeat the one before" if repeats else ""
    untimed = int(np.count_nonzero(~timed))
    note += f"; {untimed} receive times are zero and do not count" if untimed else ""
    return Clock(header_ns, "header", f"header stamps are in order and near the receive times{note}", latency_ms)


def _order_fault(header_ns: Int64) -> str | None:
    zero = int(np.count_nonzero(header_ns <= 0))
    if zero:
        return f"{zero} of {len(header_ns)} header stamps are zero"
    back = np.flatnonzero(np.diff(header_ns) < 0)
    if len(back):
        return f"header stamps go back {len(back)} times, first at message {int(back[0]) + 1}"
    return None


def _offset_fault(delays_ns: Int64) -> str | None:
    if not len(delays_ns):
        return None
    # No message is received before it is sent: such a clock was set ahead, even if only the last stamps show it.
    ahead_ns = -int(delays_ns.min())
    if ahead_ns > MAX_CLOCK_OFFSET_NS:
        return f"header stamps lie up to {ahead_ns / SECOND_NS:.3f} s after the receive times"
    low, middle, high = np.quantile(delays_ns, (0.05, 0.5, 0.95))  # a recorder that stalls for a while is no fault
    if middle > MAX_CLOCK_OFFSET_NS:
        return f"header stamps lie {middle / SECOND_NS:.3f} s before the receive times"
    if high - low > MAX_CLOCK_OFFSET_NS:
        return f"header stamps wander by {(high - low) / SECOND_NS:.3f} s against the receive times"
    return None
