"""Plans a bag: the grid, which sample of each stream every frame shows, and which frames make the episodes.

Only stamps, numbers and settings decide: no image is looked at.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from common.cli.command import UserError
from stage1_convert.align.camera_rate import is_near_fps, mid_window_delay_ns
from stage1_convert.align.ends import overlap
from stage1_convert.align.resample import RULES, grid, long_pauses
from stage1_convert.align.split import Span, at_rest, divide, runs, shortest_frames
from stage1_convert.config import Config, DataConfig, rule_of
from stage1_convert.streams.arrays import Bool, Float64, Int64
from stage1_convert.streams.clock import Clock
from stage1_convert.streams.shortage import describe_slow_streams

_SHORT_REMEDY = "; look at the bag with --inspect, and at data.min_episode_s and data.max_age_ms"


class Gap(NamedTuple):
    """A run of frames for which some streams have no sample within their limit."""

    start_ns: int
    frames: int
    streams: list[str]


class EpisodePlan(NamedTuple):
    """The grid (ticks,), the sample each stream shows at each tick, the episodes, the frames of no episode, and the gaps.

    `rules` are the rules by which the streams are resampled; the grid begins `delay_ns` after all of them have published.

    Episodes begin because of: start, gap, marker, pause, max_episode_s. Frames are left out because of: shorter_piece
    (data.on_gap=drop), pause, idle, min_episode_s, not_chosen (data.episodes).
    """

    ticks_ns: Int64
    picks: dict[str, Int64]
    episodes: list[Span]
    left_out: list[Span]
    gaps: list[Gap]
    rules: dict[str, str]
    delay_ns: int

    def shown(self, stream: str) -> Int64:
        """Return the sample of a stream that each frame of each episode shows, in order; samples may repeat."""
        return np.concatenate([self.picks[stream][span.start : span.stop] for span in self.episodes])


def make_plan(
    clocks: Mapping[str, Clock],
    angles: Mapping[str, Float64],
    others: Mapping[str, Float64],
    markers_ns: Int64,
    config: Config,
) -> EpisodePlan:
    """Lay the grid over the time in which every stream publishes, and divide it into episodes.

    It begins data.grid_delay_ms after every stream has published at least one message. Where that is null, the images of the
    first camera with about one image for each frame, unless it looks ahead, are half a period old at the ticks. `angles`
    (samples, joints) are those of each stream of joints, in radians, and `others` (samples,) the numbers of the
    action that are none; at each of `markers_ns` an episode begins. Raises UserError when the streams do not overlap, when
    nothing long enough is left, or when there is a gap and data.on_gap=fail.
    """
    data = config.data
    first_ns, last_ns = overlap(clocks, data)
    rules = {stream: _resolve(stream, clock, data) for stream, clock in clocks.items()}
    delay_ns = _grid_delay_ns(clocks, rules, first_ns, data)
    pauses_ns = long_pauses(clock.stamps_ns for clock in clocks.values())
    ticks_ns = grid(first_ns + delay_ns, last_ns, data.fps, pauses_ns)
    picks, within = {}, {}
    for stream, clock in clocks.items():
        limit_ns = rule_of(stream, data).limit_ns
        picks[stream], within[stream] = RULES[rules[stream]](clock.stamps_ns, ticks_ns, limit_ns)
        if stream in data.initial_values:  # the first sample, which stands in until a message comes
            within[stream] |= picks[stream] == 0
    complete = np.logical_and.reduce(list(within.values()))
    gaps = _gaps(ticks_ns, complete, within)
    if gaps and data.on_gap == "fail":
        after_s, silent = (gaps[0].start_ns - int(ticks_ns[0])) / 1e9, ", ".join(gaps[0].streams)
        raise UserError(
            f"a gap of {gaps[0].frames} frames {after_s:.3f} s after the start: nothing from {silent}; "
            "data.on_gap=split makes two episodes of it, data.max_age_ms_by_stream bridges it"
        )
    stretches = [Span(start, stop, "gap" if start else "start") for start, stop in runs(complete)]
    turning = np.concatenate([values[picks[stream]] for stream, values in angles.items()], axis=1)
    resting = at_rest(turning, [values[picks[stream]] for stream, values in others.items()], data.fps)
    division = divide(stretches, np.searchsorted(ticks_ns, markers_ns).tolist(), resting, data)
    if not division.episodes:
        limits_ns = {stream: rule_of(stream, data).limit_ns for stream in clocks}
        slow = describe_slow_streams(clocks, limits_ns, data)
        raise UserError(_too_short(stretches, division.left_out, data) + (slow or _SHORT_REMEDY))
    return EpisodePlan(ticks_ns, picks, division.episodes, division.left_out, gaps, rules, delay_ns)


def choose(plan: EpisodePlan, numbers: Collection[int]) -> EpisodePlan:
    """Leave out all episodes but these, counted from 0; raises UserError when one of them does not exist."""
    if max(numbers) >= len(plan.episodes):
        raise UserError(f"data.episodes asks for its episode {max(numbers)}; it has 0 to {len(plan.episodes) - 1}")
    chosen = [span for number, span in enumerate(plan.episodes) if number in numbers]
    others = [span._replace(reason="not_chosen") for span in plan.episodes if span not in chosen]
    return plan._replace(episodes=chosen, left_out=sorted([*plan.left_out, *others]))


def _resolve(stream: str, clock: Clock, data: DataConfig) -> str:
    """Return the rule of a stream, where auto is in_order for a camera with about one image for each frame, else hold."""
    rule = rule_of(stream, data).name
    if rule != "auto":
        return rule
    return "in_order" if is_near_fps(clock.stamps_ns, data.fps) else "hold"


def _grid_delay_ns(clocks: Mapping[str, Clock], rules: Mapping[str, str], first_ns: int, data: DataConfig) -> int:
    if data.grid_delay_ms is not None:
        return round(data.grid_delay_ms * 1e6)
    for camera in data.cameras:
        stamps_ns = clocks[camera].stamps_ns
        if rules[camera] in ("in_order", "hold") and is_near_fps(stamps_ns, data.fps):
            return mid_window_delay_ns(stamps_ns, first_ns, data.fps)
    return 0


def _gaps(ticks_ns: Int64, complete: Bool, within: Mapping[str, Bool]) -> list[Gap]:
    gaps = []
    for start, stop in runs(~complete):
        silent = [stream for stream, flags in within.items() if not flags[start:stop].all()]
        gaps.append(Gap(int(ticks_ns[start]), stop - start, silent))
    return gaps


def _too_short(stretches: list[Span], left_out: list[Span], data: DataConfig) -> str:
    longest = max((span.frames for span in stretches), default=0)
    rest = sum(span.frames for span in left_out if span.reason in ("pause", "idle"))
    idle = f", {rest} frames of rest are left out" if rest else ""
    return (
        f"too short: the longest stretch in which every stream publishes has {longest} frames at {data.fps} fps, "
        f"{shortest_frames(data)} are needed{idle}"
    )
