"""The state and action vectors of every frame of an episode, and the columns that trace a frame to its messages."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from common.cli.command import UserError
from stage1_convert.align.camera_rate import ImageCounts, count_images
from stage1_convert.align.episodes import EpisodePlan
from stage1_convert.align.split import Span
from stage1_convert.config import COMMAND, JOINTS, Config, DataConfig, whole_of
from stage1_convert.streams.angles import interpolate, is_angle
from stage1_convert.streams.arrays import Float64, Int64
from stage1_convert.streams.bad_messages import number_faults
from stage1_convert.streams.clock import Clock
from stage1_convert.streams.stream import BagStreams, Stream


class StatesActions(NamedTuple):
    """The states and the actions of one episode, (frames, dimensions) each."""

    states: Float64
    actions: Float64


def check_numbers(bag_streams: BagStreams, plan: EpisodePlan, config: Config) -> None:
    """Raise UserError for a message that a frame needs and that lacks a number: no value is ever made up."""
    for name, stream in bag_streams.streams.items():
        if name in config.data.cameras:
            continue
        used = np.unique(plan.shown(name))
        if plan.rules[name] == "linear":  # between it and the next one
            used = np.unique(np.minimum([used, used + 1], len(stream.values) - 1))
        faults = number_faults(stream.names, stream.numbers[used], stream.values[used], stream.faults, config)
        for number, fault in faults.items():
            raise UserError(f"topic {stream.topic}, message {number}: {fault}; data.bad_messages=skip leaves it out")


def joint_angles(bag_streams: BagStreams, config: Config) -> dict[str, Float64]:
    """Return the angles (samples, joints) of each stream of joints, in radians as recorded; the second arm's may be fields."""
    streams = bag_streams.streams
    joints = {name: stream for name, stream in streams.items() if whole_of(name) == JOINTS}
    angles = {name: stream.values[:, is_angle(stream.names, config)] for name, stream in joints.items()}
    return angles | {name: streams[name].values for name in config.data.state_fields if config.is_joint_position(name)}


def other_numbers(bag_streams: BagStreams, config: Config) -> dict[str, Float64]:
    """Return the numbers (samples,) of the action that are no positions of joints, such as a gripper's opening, by stream."""
    return {name: bag_streams.streams[name].values[:, 0] for name in config.other_units}


def states_actions(bag_streams: BagStreams, plan: EpisodePlan, span: Span, config: Config) -> StatesActions:
    """Return the states and actions of an episode.

    States are data.joint_fields of all joints, with their signs, then data.state_fields. Actions are those of the joints
    by conventions.action, then those of conventions.action_fields, then data.action_paths.
    """
    rules, data = config.conventions, config.data
    numbers, commands = _numbers(bag_streams, plan, span, config)
    actions = []
    if config.has_commands:
        actions.append(to_states(_stack(commands, rules.joint_order), rules.signs, rules.wrap_angles))
    elif rules.action != "command":
        actions.append(to_actions(_joint_states(numbers, config)["position"], rules.action))
    # Nobody commanded a field: as it is, it would ask for no motion.
    meaning = "next_position" if rules.action == "command" else rules.action
    actions += [to_actions(_stack(numbers, [name]), meaning, are_angles=False) for name in rules.action_fields]
    paths = [_stack(numbers, [name]) for name in data.action_paths]
    return StatesActions(state_vectors(numbers, config), np.concatenate([*actions, *paths], axis=1))


def state_vectors(numbers: Mapping[str, Float64], config: Config) -> Float64:
    """Return the states (frames, dimensions) from the numbers (frames,) as recorded, by the names of the dimensions."""
    fields = [_stack(numbers, [name]) for name in config.data.state_fields]
    return np.concatenate([*_joint_states(numbers, config).values(), *fields], axis=1)


def _joint_states(numbers: Mapping[str, Float64], config: Config) -> dict[str, Float64]:
    """Return the states (frames, joints) of each of data.joint_fields."""
    rules, wanted = config.conventions, config.data.joint_fields
    joints = np.array(config.state_names[: len(wanted) * len(rules.joint_order)])
    return {
        field: to_states(_stack(numbers, names), rules.signs, rules.wrap_angles and field == "position")
        for field, names in zip(wanted, np.split(joints, len(wanted)), strict=True)
    }


def _numbers(
    bag_streams: BagStreams, plan: EpisodePlan, span: Span, config: Config
) -> tuple[dict[str, Float64], dict[str, Float64]]:
    """Return the numbers (frames,) that are not commands of joints by their names, and the commands by their joints."""
    numbers: dict[str, Float64] = {}
    commands: dict[str, Float64] = {}
    for name, stream in bag_streams.streams.items():
        if stream.names:
            columns = _resampled(name, stream, plan, span, config).T
            (commands if whole_of(name) == COMMAND else numbers).update(zip(stream.names, columns, strict=True))
    return numbers, commands


def _stack(numbers: Mapping[str, Float64], names: Iterable[str]) -> Float64:
    return np.stack([numbers[name] for name in names], axis=1)


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


def oldest_age_ms(columns: dict[str, Int64], stream: str) -> Float64:
    """Return how old the samples of every frame (frames,) are; of joints in several streams, the oldest of a frame."""
    streams = [name.removesuffix(".stamp_ns") for name in columns if name.endswith(".stamp_ns")]
    parts = ages_ms(columns, [name for name in streams if whole_of(name) == stream])
    oldest: Float64 = np.maximum.reduce(list(parts.values()))
    return oldest


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


def describe_images(clocks: Mapping[str, Clock], plan: EpisodePlan, data: DataConfig) -> list[dict[str, ImageCounts]]:
    """Count, for each episode and camera, the images that its frames show, repeat and pass over."""
    return [
        {
            camera: count_images(
                clocks[camera].stamps_ns,
                plan.picks[camera][span.start : span.stop],
                plan.ticks_ns[span.start : span.stop],
                data.fps,
            )
            for camera in data.cameras
        }
        for span in plan.episodes
    ]


def _resampled(name: str, stream: Stream, plan: EpisodePlan, span: Span, config: Config) -> Float64:
    """Return the numbers (frames, dimensions) of a stream at the ticks of an episode."""
    samples = plan.picks[name][span.start : span.stop]
    if plan.rules[name] == "linear":
        ticks_ns = plan.ticks_ns[span.start : span.stop]
        return interpolate(stream.clock.stamps_ns, stream.values, ticks_ns, samples, is_angle(stream.names, config))
    return stream.values[samples]


def wrap(angles: Float64) -> Float64:
    """Return `angles`, in radians, wrapped to (-pi, pi]."""
    wrapped: Float64 = angles - 2 * np.pi * np.ceil((angles - np.pi) / (2 * np.pi))
    return wrapped


def to_states(angles: Float64, signs: Sequence[float], wrapped: bool) -> Float64:
    """Return the states (frames, joints) in radians: `angles` times `signs`, wrapped to (-pi, pi] if `wrapped`."""
    states = angles * np.asarray(signs)
    return wrap(states) if wrapped else states


def to_actions(values: Float64, meaning: str, are_angles: bool = True) -> Float64:
    """Return the actions (frames, dimensions) of one episode's states: angles in radians, or a field such as a gripper's.

    delta: the step to the next state, of angles along the shortest arc, in (-pi, pi]; zero for the last frame.
    next_position: the next state; the last frame's is its own.
    """
    following = np.concatenate([values[1:], values[-1:]])
    step = following - values
    return {"delta": wrap(step) if are_angles else step, "next_position": following}[meaning]
