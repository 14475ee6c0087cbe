"""The clocks of a bag's streams in; what every frame shows, and which frames make the episodes, out.

Only stamps, joint angles and settings decide: the images are not needed.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from common.cli.command import UserError
from stage1_convert.align import resample as sync
from stage1_convert.align.spool import Spool, forget, take
from stage1_convert.config import JOINTS, Config, DataConfig

BLOCK_TICKS = 1024  # looked at in one go: what they point at is then little, too


class Span(NamedTuple):
    """The frames `start` to `stop` (half open) of the grid, and why they begin where they do or are left out."""

    start: int
    stop: int
    reason: str

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.stop - self.start


class EpisodePlan(NamedTuple):
    """The grid, the sample each stream gives to each tick, the episodes, the frames of no episode, and the gaps.

    Episodes begin because of: start, gap, marker, pause, max_episode_s. Frames are left out because of: shorter_piece
    (data.on_gap=drop), pause, idle, min_episode_s, not_chosen (data.episodes).
    """

    ticks_ns: sync.Grid
    picks: dict[str, sync.Int64]
    episodes: list[Span]
    left_out: list[Span]
    gaps: list[dict[str, Any]]

    def used(self, stream: str) -> Iterator[sync.Int64]:
        """Yield the numbers of the samples that the frames show, each once, in order, an episode's at a time."""
        last = -1
        for span in self.episodes:
            numbers = np.unique(np.asarray(self.picks[stream][span.start : span.stop]))
            forget(self.picks[stream])
            yield numbers[numbers > last]
            last = int(numbers[-1])

    def uses(self, stream: str, samples: int) -> npt.NDArray[np.int32]:
        """Return (samples,), how many frames show each of a stream's samples; mapped where they are many."""
        found, sample, times = Spool(), 0, 0  # `times` may grow: two episodes can share a sample
        for span in self.episodes:
            counts = np.bincount(np.asarray(self.picks[stream][span.start : span.stop]) - sample).astype(np.int32)
            forget(self.picks[stream])
            counts[0] += times
            found.add(counts[:-1])
            sample, times = sample + len(counts) - 1, int(counts[-1])
        found.add(np.array([times], np.int32))
        found.add(np.zeros(samples - sample - 1, np.int32))
        return found.array()


def rule_of(stream: str, data: DataConfig) -> tuple[str, int]:
    """Return the rule by which a stream is resampled, and its limit in nanoseconds."""
    rule: str = data.resample_by_stream.get(stream, data.resample)
    if rule == "linear" and stream in data.cameras:
        rule = "nearest"
    limit_ms = data.max_age_ms_by_stream.get(stream, data.max_age_ms if rule == "hold" else data.max_offset_ms)
    return rule, round(limit_ms * 1e6)


def make_plan(
    clocks: Mapping[str, sync.Clock], angles: sync.Float64, markers_ns: sync.Int64, config: Config
) -> EpisodePlan:
    """Lay the grid from the first moment at which every stream has spoken, plus data.grid_delay_ms, to the last at
    which every one still does, and divide it into episodes.

    `angles` (joint messages, joints) are in radians, `markers_ns` the times at which an episode shall begin. Raises
    UserError when the streams do not overlap, when nothing long enough is left, or when there is a gap and
    data.on_gap=fail.
    """
    data = config.data
    first_ns, last_ns = _overlap(clocks)
    ticks_ns = sync.grid(first_ns + round(data.grid_delay_ms * 1e6), last_ns, data.fps)
    picks, good, whole = {}, {}, np.ones(len(ticks_ns), np.bool_)
    for stream, clock in clocks.items():
        picks[stream], good[stream] = _pick(clock.stamps_ns, ticks_ns, *rule_of(stream, data))
        whole &= good[stream]
        forget(good[stream])
    gaps: list[dict[str, Any]] = [
        {"start_ns": ticks_ns[a], "frames": b - a, "streams": [s for s, ok in good.items() if not ok[a:b].all()]}
        for a, b in sync.runs(~whole)
    ]
    if gaps and data.on_gap == "fail":
        at_s, silent = (gaps[0]["start_ns"] - ticks_ns[0]) / 1e9, ", ".join(gaps[0]["streams"])
        raise UserError(f"a gap of {gaps[0]['frames']} frames {at_s:.3f} s after the start: nothing from {silent}")
    pieces = [Span(a, b, "gap" if a else "start") for a, b in sync.runs(whole)]
    still = _still(angles, picks[JOINTS], data.fps) if _rests_matter(data) else None
    episodes, left_out = _divide(pieces, ticks_ns.first_from(markers_ns), still, data)
    if not episodes:
        raise UserError(_too_short(pieces, left_out, data))
    return EpisodePlan(ticks_ns, picks, episodes, sorted(left_out), gaps)


def choose(plan: EpisodePlan, numbers: Collection[int]) -> EpisodePlan:
    """Leave out all episodes but these, counted from 0; raises UserError when one of them does not exist."""
    if max(numbers) >= len(plan.episodes):
        raise UserError(f"data.episodes asks for its episode {max(numbers)}; it has 0 to {len(plan.episodes) - 1}")
    others = [span._replace(reason="not_chosen") for at, span in enumerate(plan.episodes) if at not in numbers]
    chosen = [span for at, span in enumerate(plan.episodes) if at in numbers]
    return plan._replace(episodes=chosen, left_out=sorted([*plan.left_out, *others]))


def _overlap(clocks: Mapping[str, sync.Clock]) -> tuple[int, int]:
    first = {stream: int(clock.stamps_ns[0]) for stream, clock in clocks.items()}
    last = {stream: int(clock.stamps_ns[-1]) for stream, clock in clocks.items()}
    late, early = max(first, key=first.__getitem__), min(last, key=last.__getitem__)
    if first[late] > last[early]:
        raise UserError(
            f"{late} ({clocks[late].source} time) begins {(first[late] - last[early]) / 1e9:.3f} s after {early} "
            f"({clocks[early].source} time) has ended: there is no moment to show; look at data.time_source"
        )
    return first[late], last[early]


def _pick(stamps_ns: sync.Int64, ticks_ns: sync.Grid, rule: str, limit_ns: int) -> tuple[sync.Int64, sync.Bool]:
    """Return what sync.pick does, in memory that does not grow with the bag."""
    picks, good = Spool(), Spool()
    for first in range(0, max(len(ticks_ns), 1), BLOCK_TICKS):
        block = slice(first, first + BLOCK_TICKS)
        found, acceptable = sync.pick(stamps_ns, ticks_ns[block], rule, limit_ns)
        picks.add(found)
        good.add(acceptable)
        forget(stamps_ns)
    return picks.array(), good.array()


def _still(angles: sync.Float64, picks: sync.Int64, fps: int) -> sync.Bool:
    """Return for each tick whether the arm rests on the way to the next one."""
    still = np.zeros(len(picks), np.bool_)
    for first in range(0, len(picks), BLOCK_TICKS):
        block = take(angles, picks[first : first + BLOCK_TICKS + 1])
        still[first : first + len(block) - 1] = sync.resting(block, fps)[:-1]
        forget(picks)
    return still


def _still_within(piece: Span, still: sync.Bool) -> sync.Bool:
    """Return whether the arm rests in each frame of a piece; the last one leads nowhere and is like the one before."""
    within = still[piece.start : piece.stop].copy()
    within[-1:] = within[-2:-1] if len(within) > 1 else False
    return within


def _rests_matter(data: DataConfig) -> bool:
    return data.split_pause_s > 0 or data.trim_idle_s > 0


def _shortest(data: DataConfig) -> int:
    return max(2, math.ceil(data.min_episode_s * data.fps - 1e-9))


def _divide(
    pieces: list[Span], cuts: Iterable[int], still: sync.Bool | None, data: DataConfig
) -> tuple[list[Span], list[Span]]:
    """Return the episodes and the frames that are left out of the pieces between gaps."""
    left_out: list[Span] = []
    if data.on_gap == "drop" and pieces:
        longest = max(pieces, key=lambda piece: piece.frames)
        left_out += [piece._replace(reason="shorter_piece") for piece in pieces if piece is not longest]
        pieces = [longest]
    pieces = [part for piece in pieces for part in _cut(piece, cuts)]
    if still is not None and data.split_pause_s > 0:
        pieces = [part for piece in pieces for part in _without_pauses(piece, still, data, left_out)]
    if still is not None and data.trim_idle_s > 0:
        pieces = [_without_idle_ends(piece, still, data, left_out) for piece in pieces]
    longest_frames = max(2, math.floor(data.max_episode_s * data.fps + 1e-9))
    episodes = []
    for piece in pieces:
        if piece.frames < _shortest(data):
            left_out += [piece._replace(reason="min_episode_s")] if piece.frames else []
            continue
        parts = sync.cut_evenly(piece.start, piece.stop, longest_frames)
        episodes += [Span(a, b, "max_episode_s" if at else piece.reason) for at, (a, b) in enumerate(parts)]
    return episodes, left_out


def _cut(piece: Span, cuts: Iterable[int]) -> Iterator[Span]:
    """Cut a piece at the ticks `cuts`, ascending, that lie within it."""
    start, reason = piece.start, piece.reason
    for cut in cuts:
        if start < cut < piece.stop:
            yield Span(start, cut, reason)
            start, reason = cut, "marker"
    yield Span(start, piece.stop, reason)


def _without_pauses(piece: Span, still: sync.Bool, data: DataConfig, left_out: list[Span]) -> Iterator[Span]:
    """Cut the rests of at least data.split_pause_s out of a piece; the next part begins with the last frame at rest,
    as `resting` counts a frame to the motion that follows it."""
    long = math.ceil(data.split_pause_s * data.fps - 1e-9)
    start, reason = piece.start, piece.reason
    for a, b in sync.runs(_still_within(piece, still)):
        if b - a >= long:
            first = piece.start + a + (a > 0)  # an episode ends with the frame in which the arm has come to rest
            left_out.append(Span(first, piece.start + b, "pause"))
            if first > start:
                yield Span(start, first, reason)
            start, reason = piece.start + b, "pause"
    if start < piece.stop:
        yield Span(start, piece.stop, reason)


def _without_idle_ends(piece: Span, still: sync.Bool, data: DataConfig, left_out: list[Span]) -> Span:
    """Cut all but data.trim_idle_s of the rest at both ends of a piece."""
    first, last = sync.trim(_still_within(piece, still), math.ceil(data.trim_idle_s * data.fps - 1e-9))
    kept = piece._replace(start=piece.start + first, stop=piece.start + last)
    ends = [Span(piece.start, kept.start, "idle"), Span(kept.stop, piece.stop, "idle")]
    left_out += [end for end in ends if end.frames]
    return kept


def _too_short(pieces: list[Span], left_out: list[Span], data: DataConfig) -> str:
    longest = max((piece.frames for piece in pieces), default=0)
    others = sum(span.frames for span in left_out if span.reason in ("pause", "idle"))
    idle = f", {others} frames of rest are left out" if others else ""
    return (
        f"too short: the longest stretch in which every stream speaks has {longest} frames at {data.fps} fps, "
        f"{_shortest(data)} are needed{idle}"
    )
