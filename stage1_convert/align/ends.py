"""Where the grid of a bag begins and ends, and what lies outside of it. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np

from common.cli.command import UserError
from stage1_convert.config import JOINTS, DataConfig
from stage1_convert.streams.arrays import Int64
from stage1_convert.streams.clock import SECOND_NS, Clock

IRREGULAR = 5  # median intervals: a stream that is silent for longer and says something again publishes on change
PATIENT_PERIODS = 10  # of the grid: a stream with a longer limit of its own is not expected to publish at a rate
TOLD_S = 1.0  # a cut that is longer is a warning


def publishes_on_change(stream: str, stamps_ns: Int64, data: DataConfig) -> bool:
    """Return whether a stream publishes when something changes, and not at a rate.

    It does when its own limit is longer than ten periods of the grid, or when it is neither the joints nor a camera and its
    intervals are irregular or too few to tell.
    """
    if data.max_age_ms_by_stream.get(stream, 0) > PATIENT_PERIODS * 1000 / data.fps:
        return True
    if stream == JOINTS or stream in data.cameras:
        return False
    steps_ns = np.diff(stamps_ns)
    return len(steps_ns) < 2 or bool(steps_ns.max() > IRREGULAR * np.median(steps_ns))


def overlap(clocks: Mapping[str, Clock], data: DataConfig) -> tuple[int, int]:
    """Return when the grid may begin and must end, in nanoseconds.

    It begins when every stream has published, and ends with the first stream that publishes at a rate and stops: one that
    publishes on change holds its last sample as long as its limit says. Raises UserError when nothing is left.
    """
    first = {stream: int(clock.stamps_ns[0]) for stream, clock in clocks.items()}
    last = {stream: int(clocks[stream].stamps_ns[-1]) for stream in _steady(clocks, data)}
    late, early = max(first, key=first.__getitem__), min(last, key=last.__getitem__)
    if first[late] > last[early]:
        raise UserError(
            f"{late} ({clocks[late].source} time) begins {(first[late] - last[early]) / 1e9:.3f} s after {early} "
            f"({clocks[early].source} time) has ended: the streams never overlap; look at data.time_source"
        )
    return first[late], last[early]


def describe_cuts(
    clocks: Mapping[str, Clock],
    shown_ns: tuple[int, int],
    silent: tuple[Sequence[str], Sequence[str]],
    data: DataConfig,
) -> list[str]:
    """Say what is in no frame before and after `shown_ns`, the first and last tick outside of a gap, if it is more than a
    second; `silent` are the streams that have nothing to show there, if it is a gap."""
    steady = _steady(clocks, data)
    start_s = (shown_ns[0] - min(int(clocks[stream].stamps_ns[0]) for stream in steady)) / SECOND_NS
    end_s = (max(int(clocks[stream].stamps_ns[-1]) for stream in steady) - shown_ns[1]) / SECOND_NS
    late = max(clocks, key=lambda stream: int(clocks[stream].stamps_ns[0]))
    early = min(steady, key=lambda stream: int(clocks[stream].stamps_ns[-1]))
    first = f"{late} publishes its first message then"
    if late in data.state_fields:
        first += f"; data.initial_values={{{late}: NUMBER}} stands in until then"
    last = (
        f"{early} publishes its last message before; if it publishes on change, data.max_age_ms_by_stream={{{early}: 60000}} "
        "holds it"
    )
    cuts = [("first", start_s, _nothing_from(silent[0]) or first), ("last", end_s, _nothing_from(silent[1]) or last)]
    return [f"the {end} {cut_s:.1f} s are in no frame: {reason}" for end, cut_s, reason in cuts if cut_s > TOLD_S]


def _nothing_from(streams: Sequence[str]) -> str:
    if not streams:
        return ""
    limits = ", ".join(f"{stream}: 60000" for stream in streams)
    return f"nothing new from {', '.join(streams)}; data.max_age_ms_by_stream={{{limits}}} holds a value longer"


def _steady(clocks: Mapping[str, Clock], data: DataConfig) -> list[str]:
    """Return the streams that publish at a rate, or all if none does."""
    steady = [s for s, clock in clocks.items() if not publishes_on_change(s, clock.stamps_ns, data)]
    return steady or list(clocks)
