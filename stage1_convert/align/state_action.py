"""The tape and the plan of a bag in; the state, the action and the sources of every frame of an episode out."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from common.cli.command import UserError
from stage1_convert.align import conventions
from stage1_convert.align import resample as sync
from stage1_convert.align.episodes import EpisodePlan, Span, rule_of
from stage1_convert.align.spool import take
from stage1_convert.align.streams import BagStreams, Stream
from stage1_convert.config import COMMAND, JOINTS, Config

MAX_NUMBER = 1e9  # what is beyond any force, angle or distance of a robot is a damaged number
MAX_ANGLE_RAD = 1e4  # a thousand turns and more, too


class StatesActions(NamedTuple):
    """The states and the actions of one episode, (frames, dimensions) each."""

    states: sync.Float64
    actions: sync.Float64


def check_numbers(tape: BagStreams, plan: EpisodePlan, config: Config) -> None:
    """Refuse messages that a frame needs and that do not give all their numbers: no value is ever made up."""
    for name, stream in tape.streams.items():
        if name in config.data.cameras:
            continue
        limits = np.where(angular(name, config), MAX_ANGLE_RAD, MAX_NUMBER)
        needed = (0, 1) if rule_of(name, config.data)[0] == "linear" else (0,)  # between it and the next one
        for shown in plan.used(name):
            used = np.unique(np.minimum([shown + more for more in needed], len(stream.values) - 1))
            sound = (np.abs(take(stream.values, used)) <= limits).all(axis=1)  # false for NaN, too
            if not sound.all():
                first = int(used[~sound][0])
                fault = stream.faults.get(first) or _strange(stream.values[first], limits, dimensions(name, config))
                raise UserError(f"topic {stream.topic}, message {stream.numbers[first]}: {fault}")


def dimensions(stream: str, config: Config) -> list[str]:
    """Return the names of a stream's numbers."""
    joints = config.conventions.joint_order
    if stream == JOINTS:
        return list(config.state_names[: len(joints) * len(config.data.joint_fields)])
    return joints if stream == COMMAND else [stream]


def angular(stream: str, config: Config) -> sync.Bool:
    """Return which of a stream's numbers are joint angles."""
    joints = len(config.conventions.joint_order)
    if stream == JOINTS:
        return np.repeat([field == "position" for field in config.data.joint_fields], joints)
    return np.full(len(dimensions(stream, config)), stream == COMMAND)


def numbers_of(tape: BagStreams, plan: EpisodePlan, span: Span, config: Config) -> StatesActions:
    """Return the states and actions of an episode.

    States are data.joint_fields of the joints, with their signs, then data.state_fields. Actions follow
    conventions.action for the joints; those of conventions.action_fields are differences, next values, or, beside
    commands, the values themselves.
    """
    rules, data = config.conventions, config.data
    taken = {name: _sampled(name, tape.streams[name], plan, span, config) for name in tape.streams}
    count = len(rules.joint_order)
    sign = np.asarray(rules.joint_sign) if rules.apply_joint_sign else None
    parts = {field: taken[JOINTS][:, at * count : (at + 1) * count] for at, field in enumerate(data.joint_fields)}
    states = {
        field: conventions.to_states(values, sign, rules.wrap_angles and field == "position")
        for field, values in parts.items()
    }
    if rules.action == "command":
        joint_actions = conventions.to_states(taken[COMMAND], sign, rules.wrap_angles)
    else:
        joint_actions = conventions.to_actions(states["position"], rules.action)
    actions = [joint_actions] + [
        conventions.to_field_actions(taken[name], rules.action) for name in rules.action_fields
    ]
    fields = [taken[name] for name in data.state_fields]
    return StatesActions(np.concatenate([*states.values(), *fields], axis=1), np.concatenate(actions, axis=1))


def sources_of(tape: BagStreams, plan: EpisodePlan, span: Span) -> dict[str, sync.Int64]:
    """Return the columns that trace an episode's frames: their moments, and the stamp and number of every message."""
    ticks_ns = plan.ticks_ns[span.start : span.stop]
    columns = {"frame_index": np.arange(span.frames), "tick_ns": ticks_ns}
    for name, stream in tape.streams.items():
        index = plan.picks[name][span.start : span.stop]
        columns[f"{name}.stamp_ns"] = take(stream.clock.stamps_ns, index)
        columns[f"{name}.message"] = take(stream.numbers, index)
    return columns


def ages_ms(sources: dict[str, sync.Int64], streams: Iterable[str]) -> dict[str, sync.Float64]:
    """Return how old the samples of every frame are in milliseconds; negative ones lie behind the frame's moment."""
    return {stream: (sources["tick_ns"] - sources[f"{stream}.stamp_ns"]) / 1e6 for stream in streams}


def describe_ages(sources: dict[str, sync.Int64], cameras: Sequence[str], streams: Iterable[str]) -> dict[str, Any]:
    """Return what conversion.json tells of an episode's samples.

    age_ms: mean, 95th percentile and maximum of the distance between a frame and its sample; held: frames that show
    the sample of the frame before; dropped: a camera's messages that no frame shows though its neighbors are shown.
    """
    report: dict[str, Any] = {"age_ms": {}, "held": {}, "dropped": {}}
    for stream, signed in ages_ms(sources, streams).items():
        age, shown = np.abs(signed), sources[f"{stream}.message"]
        figures = {"mean": age.mean(), "p95": np.quantile(age, 0.95), "max": age.max()}
        report["age_ms"][stream] = {name: round(float(value), 3) for name, value in figures.items()}
        report["held"][stream] = int(np.count_nonzero(np.diff(shown) == 0))
        if stream in cameras:
            report["dropped"][stream] = int(shown[-1] - shown[0]) + 1 - len(np.unique(shown))
    return report


def _sampled(name: str, stream: Stream, plan: EpisodePlan, span: Span, config: Config) -> sync.Float64:
    index = plan.picks[name][span.start : span.stop]
    if name not in config.data.cameras and rule_of(name, config.data)[0] == "linear":
        ticks_ns = plan.ticks_ns[span.start : span.stop]
        return sync.interpolate(stream.clock.stamps_ns, stream.values, ticks_ns, index, angular(name, config))
    return take(stream.values, index)


def _strange(values: sync.Float64, limits: Any, names: list[str]) -> str:
    units = np.where(limits == MAX_ANGLE_RAD, " rad", "")
    sound = np.abs(values) <= limits
    return ", ".join(
        f"{name} is {value}{unit}"
        for name, value, unit, fine in zip(names, values, units, sound, strict=True)
        if not fine
    )
