"""The state and action vectors of every frame of an episode, and the columns that trace a frame to its messages."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from common.cli.command import UserError
from stage1_convert.align import conventions
from stage1_convert.align.camera_rate import ImageCounts, count_images
from stage1_convert.align.clock import Clock, Int64
from stage1_convert.align.episodes import EpisodePlan, rule_of
from stage1_convert.align.resample import Bool, Float64, interpolate
from stage1_convert.align.split import Span
from stage1_convert.align.streams import BagStreams, Stream
from stage1_convert.config import COMMAND, JOINTS, Config, DataConfig

MAX_NUMBER = 1e9  # no force, angle or distance of a robot is larger: such a number is damaged
MAX_ANGLE_RAD = 1e4  # more than a thousand turns


class StatesActions(NamedTuple):
    """The states and the actions of one episode, (frames, dimensions) each."""

    states: Float64
    actions: Float64


def check_numbers(bag_streams: BagStreams, plan: EpisodePlan, config: Config) -> None:
    """Raise UserError for a message that a frame needs and that lacks a number: no value is ever made up."""
    for name, stream in bag_streams.streams.items():
        if name in config.data.cameras:
            continue
        limits = np.where(angular(name, config), MAX_ANGLE_RAD, MAX_NUMBER)
        used = np.unique(plan.shown(name))
        if rule_of(name, config.data)[0] == "linear":  # between it and the next one
            used = np.unique(np.minimum([used, used + 1], len(stream.values) - 1))
        valid = (np.abs(stream.values[used]) <= limits).all(axis=1)  # false for NaN, too
        if not valid.all():
            first = int(used[~valid][0])
            number = int(stream.numbers[first])
            fault = stream.faults.get(number) or _out_of_range(stream.values[first], limits, dimensions(name, config))
            raise UserError(f"topic {stream.topic}, message {number}: {fault}")


def dimensions(stream: str, config: Config) -> list[str]:
    """Return the names of a stream's numbers."""
    joints = config.conventions.joint_order
    if stream == JOINTS:
        return list(config.state_names[: len(joints) * len(config.data.joint_fields)])
    return joints if stream == COMMAND else [stream]


def angular(stream: str, config: Config) -> Bool:
    """Return (dimensions,), which of a stream's numbers are joint angles."""
    joints = len(config.conventions.joint_order)
    if stream == JOINTS:
        return np.repeat([field == "position" for field in config.data.joint_fields], joints)
    return np.full(len(dimensions(stream, config)), stream == COMMAND)


def states_actions(bag_streams: BagStreams, plan: EpisodePlan, span: Span, config: Config) -> StatesActions:
    """Return the states and actions of an episode.

    States are data.joint_fields of all joints, with their signs, then data.state_fields. Actions are those of the joints
    by conventions.action, then those of conventions.action_fields.
    """
    rules, data = config.conventions, config.data
    values = {
        name: _resampled(name, stream, plan, span, config)
        for name, stream in bag_streams.streams.items()
        if name not in data.cameras
    }
    sign = np.asarray(rules.joint_sign) if rules.apply_joint_sign else None
    by_field = np.split(values[JOINTS], len(data.joint_fields), axis=1)
    states = {
        field: conventions.to_states(numbers, sign, rules.wrap_angles and field == "position")
        for field, numbers in zip(data.joint_fields, by_field, strict=True)
    }
    if rules.action == "command":
        joint_actions = conventions.to_states(values[COMMAND], sign, rules.wrap_angles)
    else:
        joint_actions = conventions.to_actions(states["position"], rules.action)
    field_actions = [conventions.to_field_actions(values[name], rules.action) for name in rules.action_fields]
    fields = [values[name] for name in data.state_fields]
    return StatesActions(
        np.concatenate([*states.values(), *fields], axis=1), np.concatenate([joint_actions, *field_actions], axis=1)
    )


def provenance(bag_streams: BagStreams, plan: EpisodePlan, span: Span) -> dict[str, Int64]:
    """Return the columns (frames,) that trace an episode: each frame's tick, and the stamp and number of every message."""
    columns = {"frame_index": np.arange(span.frames), "tick_ns": plan.ticks_ns[span.start : span.stop]}
    for name, stream in bag_streams.streams.items():
        samples = plan.picks[name][span.start : span.stop]
        columns[f"{name}.stamp_ns"] = stream.clock.stamps_ns[samples]
        columns[f"{name}.message"] = stream.numbers[samples]
    return columns


def ages_ms(columns: dict[str, Int64], streams: Iterable[str]) -> dict[str, Float64]:
    """Return how old the samples of every frame are in milliseconds; it is negative where they are later than the tick."""
    return {stream: (columns["tick_ns"] - columns[f"{stream}.stamp_ns"]) / 1e6 for stream in streams}


def describe_ages(columns: dict[str, Int64], streams: Iterable[str]) -> dict[str, Any]:
    """Return what conversion.json holds about the samples of an episode, from its provenance columns.

    age_ms: mean, 95th percentile and maximum of the distance between a frame and its sample; repeated: frames that show
    the sample of the frame before.
    """
    report: dict[str, Any] = {"age_ms": {}, "repeated": {}}
    for stream, signed in ages_ms(columns, streams).items():
        age, shown = np.abs(signed), columns[f"{stream}.message"]
        figures = {"mean": age.mean(), "p95": np.quantile(age, 0.95), "max": age.max()}
        report["age_ms"][stream] = {name: round(float(value), 3) for name, value in figures.items()}
        report["repeated"][stream] = int(np.count_nonzero(np.diff(shown) == 0))
    return report


def describe_images(
    clocks: Mapping[str, Clock], plan: EpisodePlan, span: Span, data: DataConfig
) -> dict[str, ImageCounts]:
    """Return what the frames of an episode make of the images of each camera."""
    ticks_ns = plan.ticks_ns[span.start : span.stop]
    shown = {camera: plan.picks[camera][span.start : span.stop] for camera in data.cameras}
    return {
        camera: count_images(clocks[camera].stamps_ns, samples, ticks_ns, data.fps) for camera, samples in shown.items()
    }


def _resampled(name: str, stream: Stream, plan: EpisodePlan, span: Span, config: Config) -> Float64:
    """Return the numbers (frames, dimensions) of a stream at the ticks of an episode."""
    samples = plan.picks[name][span.start : span.stop]
    if rule_of(name, config.data)[0] == "linear":
        ticks_ns = plan.ticks_ns[span.start : span.stop]
        return interpolate(stream.clock.stamps_ns, stream.values, ticks_ns, samples, angular(name, config))
    return stream.values[samples]


def _out_of_range(values: Float64, limits: Float64, names: list[str]) -> str:
    wrong = [
        f"{name} is {value}{' rad' if limit == MAX_ANGLE_RAD else ''}"
        for name, value, limit in zip(names, values, limits, strict=True)
        if not abs(value) <= limit
    ]
    return ", ".join(wrong)
