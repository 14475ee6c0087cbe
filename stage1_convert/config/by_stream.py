"""What the settings say of one stream: the rule by which it is resampled, how far away its samples may be, and its clock.

The stream of joints that come in messages of their own is called `joints.NAME`, or `command.NAME`.
"""

from typing import NamedTuple

from stage1_convert.config.data import DataConfig
from stage1_convert.config.names import TimeSource


class ResampleRule(NamedTuple):
    """The name of the rule by which a stream is resampled, and how far away its samples may be, in nanoseconds."""

    name: str
    limit_ns: int


def whole_of(stream: str) -> str:
    """Return the stream that a stream is a part of, or is: joints for joints.finger_joint."""
    return stream.partition(".")[0]


def rule_of(stream: str, data: DataConfig) -> ResampleRule:
    """Return the rule of a stream by the settings; of a camera it may be auto.

    A part, such as joints.NAME, follows the whole where it has no limit of its own.
    """
    whole = whole_of(stream)
    rule: str = data.resample_by_stream.get(whole, data.resample)
    if stream not in data.cameras and rule in ("auto", "in_order"):
        rule = "hold"
    if stream in data.cameras and rule == "linear":
        rule = "nearest"
    default_ms = data.max_offset_ms if rule in ("nearest", "linear") else data.max_age_ms
    limits_ms = data.max_age_ms_by_stream
    return ResampleRule(rule, round(limits_ms.get(stream, limits_ms.get(whole, default_ms)) * 1e6))


def time_source_of(stream: str, data: DataConfig) -> TimeSource:
    """Return the clock that the settings ask for: auto, header or receive."""
    return data.time_source_by_stream.get(stream, data.time_source)
