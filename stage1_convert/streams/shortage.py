"""Says why a bag gives no episode or no command: which stream is too slow for the settings, and which of them solve it."""

import math
from collections.abc import Mapping

import numpy as np

from common.cli.command import UserError
from stage1_convert.config import DataConfig, whole_of
from stage1_convert.streams.arrays import Int64
from stage1_convert.streams.clock import SECOND_NS, Clock

SPARE = 2.5  # periods of a stream that its limit should allow: one lost message must not end an episode
MAX_LIMIT_MS = 60_000
SPARSE_PERIODS = 10  # of the grid: trajectories that are further apart are no commands


def describe_slow_streams(clocks: Mapping[str, Clock], limits_ns: Mapping[str, int], data: DataConfig) -> str:
    """Return which streams usually publish further apart than their limit, and the settings for them; "" for none."""
    periods_ns = {stream: _median_period_ns(clock.stamps_ns) for stream, clock in clocks.items()}
    slow = [stream for stream, period_ns in periods_ns.items() if period_ns > limits_ns[stream]]
    if not slow:
        return ""
    texts = [
        f"{stream} publishes at {1e9 / periods_ns[stream]:.3g} Hz, every {periods_ns[stream] / 1e6:.0f} ms, and its "
        f"samples count for {limits_ns[stream] / 1e6:g} ms"
        for stream in slow
    ]
    wanted = {whole_of(stream): patient_limit_ms(periods_ns[stream] / 1e6) for stream in slow}
    longest = ", ".join(f"{stream}: {limit_ms}" for stream, limit_ms in wanted.items())
    remedy = f"set data.max_age_ms_by_stream={{{longest}}}"
    fps = round(1e9 / max(periods_ns[stream] for stream in slow))
    if 1 <= fps < data.fps:
        remedy += f" and data.fps={fps}"
    return f": {'; '.join(texts)}; {remedy}"


def patient_limit_ms(period_ms: float) -> int:
    """Return a limit, in milliseconds, for a stream with this time between its messages, one of which may be lost."""
    return min(MAX_LIMIT_MS, math.ceil(SPARE * period_ms))


def require_commands_at_a_rate(topic: str, stamps_ns: Int64, fps: int) -> None:
    """Raise UserError for trajectories that are sent once for each goal: the first point of such a one is no action."""
    if len(stamps_ns) < 2 or _median_period_ns(stamps_ns) > SPARSE_PERIODS * SECOND_NS / fps:
        raise UserError(
            f"topic {topic}: {len(stamps_ns)} trajectories, one for each goal: their first points are no commands at "
            f"{fps} fps; conventions.action=next_position or delta takes the actions from the joints"
        )


def _median_period_ns(stamps_ns: Int64) -> float:
    return float(np.median(np.diff(stamps_ns))) if len(stamps_ns) > 1 else 0.0
