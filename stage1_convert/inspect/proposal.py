"""Propose a configuration for surveyed bags, as YAML. Pure."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from common.cli.command import UserError, one_line
from stage1_convert.align.camera_rate import rate_of
from stage1_convert.inspect.joints import (
    DEFAULT_AGE_MS,
    choose_joint_topic,
    choose_joints,
    is_commanded,
    joint_names,
    number_path,
)
from stage1_convert.inspect.survey import Survey, TopicStats
from stage1_convert.streams.joint_fields import ARRAYS, TRAJECTORY
from stage1_convert.streams.shortage import patient_limit_ms, require_commands_at_a_rate

FPS, MAX_FPS = 30, 33  # for a camera whose stamps do not tell its rate; the fastest of a proposal
# Parts of a topic's name that describe the kind of image and not the camera.
KIND_WORDS = re.compile(
    r"(image|video)(_?(raw|rect|color|mono|compressed|transport))*|compressed(depth)?|ffmpeg|rgb|raw"
)
TWISTS = {"geometry_msgs/msg/Twist": "linear.x", "geometry_msgs/msg/TwistStamped": "twist.linear.x"}


class Proposal(NamedTuple):
    """The YAML of a configuration, and the bag that it was proposed from."""

    bag: str
    text: str


def propose(surveys: Sequence[Survey]) -> Proposal | None:
    """Return a configuration; None when no bag has both joints and a camera.

    Topics are those of the first bag that has both, since a configuration names one set of topics.
    """
    for survey in surveys:
        joints, cameras = choose_joint_topic(survey), _cameras(survey)
        if joints and cameras:
            return Proposal(survey.name, _yaml(survey, joints, cameras))
    return None


def describe_missing(surveys: Sequence[Survey]) -> str:
    """Return what the bags lack for a configuration."""
    found = {
        "joint states (sensor_msgs/msg/JointState)": any(choose_joint_topic(survey) for survey in surveys),
        "images that decode": any(_cameras(survey) for survey in surveys),
    }
    missing = [name for name, is_there in found.items() if not is_there]
    return (
        f"no bag holds {' or '.join(missing)}" if missing else "no bag holds both joint states and images that decode"
    )


def _yaml(survey: Survey, joints: TopicStats, cameras: dict[str, TopicStats]) -> str:
    chosen = choose_joints(survey, joints, cameras)
    slowest_hz = min(map(_frame_hz, cameras.values()))
    fps = _fps(slowest_hz)
    data: dict[str, Any] = {
        "joint_topic": joints.name,
        "cameras": {name: _plain(stats.name) for name, stats in cameras.items()},
        "fps": fps,
        "robot_type": "ur10e" if chosen.is_ur else "robot",
        "task": survey.custom.get("task") or "Move the arm as demonstrated.",
    }
    guesses = {name: stats.camera.guess for name, stats in cameras.items() if stats.camera and stats.camera.guess}
    if guesses:
        data["encodings"] = guesses
    limit_ms = patient_limit_ms(1000 / slowest_hz)
    if limit_ms > DEFAULT_AGE_MS:
        data["max_age_ms"] = limit_ms
    conventions: dict[str, Any] = {"joint_order": chosen.order, "action": "delta"}
    if chosen.fields:
        # A gripper moves in few frames: a policy learns where it goes far sooner than how far it goes in each of them.
        conventions["action"] = "next_position"
        data["state_fields"], conventions["action_fields"] = chosen.fields, list(chosen.fields)
    if chosen.max_age_ms:
        data["max_age_ms_by_stream"] = chosen.max_age_ms
    changing = [stats.camera.sizes for stats in cameras.values() if stats.camera and len(stats.camera.sizes) > 1]
    if changing:
        conventions["image_resize"] = list(changing[0][0])
    text = yaml.safe_dump({"data": data, "conventions": conventions}, sort_keys=False, allow_unicode=True, width=100)
    remarks = [
        *_remarks(survey, joints, cameras, chosen.fields),
        *_command_remarks(survey, chosen.order, fps),
        *chosen.remarks,
    ]
    return "".join(f"# {line}\n" for line in remarks) + text


def _rate_hz(stats: TopicStats) -> float:
    return rate_of(stats.clock.stamps_ns) if stats.clock else 0.0


def _frame_hz(stats: TopicStats) -> float:
    """Return the rate of a camera, as far as its stamps tell it."""
    return _rate_hz(stats) or FPS


def _fps(rate_hz: float) -> int:
    """Return the rate of the frames for a camera: its own, or of a fast one every second, third, ... image."""
    return max(1, round(rate_hz / math.ceil(rate_hz / MAX_FPS)))


def _remarks(survey: Survey, joints: TopicStats, cameras: dict[str, TopicStats], fields: dict[str, str]) -> list[str]:
    rates = [f"{name} {_rate_hz(stats):.1f} Hz" for name, stats in {"joints": joints, **cameras}.items()]
    lines = [f"proposed from bag {survey.name}: {', '.join(rates)}"]
    twists = [f"{f.name}:{TWISTS[f.type]}" for f in survey.topics if f.type in TWISTS and f.read]
    if twists:
        settings = f"data.action_paths: {{vx: '{twists[0]}'}}, conventions.action: command"
        lines.append(f"twists to take actions from ({settings}): {', '.join(twists)}")
    numbers = [path for path in map(number_path, survey.topics) if path and path not in fields.values()]
    if numbers:
        lines.append(f"numbers that are left out: {', '.join(numbers)}")
        lines.append(
            "add what is measured to data.state_fields as {name: 'TOPIC:PATH'}, and what the policy moves to "
            "conventions.action_fields"
        )
    lines += [
        f"camera {name} sends {stats.camera.encoding}, which does not name its channels: {stats.camera.guess} is a guess, "
        "see its thumbnail"
        for name, stats in cameras.items()
        if stats.camera and stats.camera.guess
    ]
    converted = {_plain(stats.name) for stats in cameras.values()}
    others = [f.name for f in survey.topics if f.camera and f.read and _plain(f.name) not in converted]
    if others:
        lines.append(f"images that cannot be converted: {', '.join(others)}")
    rates_hz = {name: _frame_hz(stats) for name, stats in cameras.items()}
    slowest, *faster = sorted(rates_hz, key=lambda name: rates_hz[name])
    if faster and (fps := _fps(rates_hz[faster[0]])) > _fps(rates_hz[slowest]):
        lines.append(
            f"camera {slowest} sets data.fps: without it, {fps} frames per second show more images of the others"
        )
    return lines


def _command_remarks(survey: Survey, joints: Sequence[str], fps: int) -> list[str]:
    """Say which topics hold commands of the joints, and what they are called there if it is otherwise."""
    commands, lines = [], []
    for topic in survey.topics:
        if not topic.clock or not (topic.type in (TRAJECTORY, *ARRAYS) or is_commanded(topic)):
            continue
        try:
            if topic.type == TRAJECTORY:
                require_commands_at_a_rate(topic.name, topic.clock.stamps_ns, fps)
        except UserError as error:
            lines.append(one_line(error))
            continue
        commands.append(topic.name)
        renamed = {name: joint for joint in joints for name in joint_names(topic) if name.endswith(f"_{joint}")}
        if set(renamed.values()) == set(joints):
            text = ", ".join(f"{name}: {joint}" for name, joint in renamed.items())
            lines.append(f"with the commands of {topic.name}: data.command_joints: {{{text}}}")
    if commands:
        settings = "data.command_topic, conventions.action: command"
        lines.insert(0, f"commands to take actions from ({settings}): {', '.join(commands)}")
    if len(commands) > 1:
        lines.insert(
            1,
            "data.command_topic takes one of them; those of a second arm are added to data.action_paths as "
            "{NAME: 'TOPIC:position[JOINT]'}, in place of its conventions.action_fields",
        )
    return lines


def _cameras(survey: Survey) -> dict[str, TopicStats]:
    """Every topic whose images can be decoded, by a name made from the topic's; a raw topic and its siblings count once."""
    chosen: dict[str, TopicStats] = {}
    for stats in sorted(survey.topics, key=lambda f: (not f.name.endswith("/compressed"), f.name)):
        if stats.camera and stats.camera.image is not None and stats.read:
            chosen.setdefault(_plain(stats.name), stats)
    names: dict[str, TopicStats] = {}
    for topic in sorted(chosen):
        name = re.sub(r"\W+", "_", _camera_name(topic, [other for other in chosen if other != topic]), flags=re.ASCII)
        while name in names or name in ("joints", "command"):
            name += "_2"
        names[name] = chosen[topic]
    return names


def _camera_name(topic: str, others: Sequence[str]) -> str:
    """Return the last word of a topic, and where other cameras have the same, before it the words that they lack."""
    words = _words(topic)
    rivals = [_words(other) for other in others if _words(other)[-1] == words[-1]]
    apart = [word for word in words[:-1] if not all(word in rival for rival in rivals)]
    if rivals and not apart:  # only the kind of image tells them apart, such as image_raw and image_rect
        return "_".join(topic.strip("/").split("/")[-2:])
    return "_".join([*apart, words[-1]])


def _plain(topic: str) -> str:
    """The raw topic of a compressed sibling; a configuration that names it accepts either."""
    return topic.removesuffix("/compressed")


def _words(topic: str) -> list[str]:
    """The parts of a topic's name that distinguish cameras."""
    parts = [part for part in topic.split("/") if part]
    return [part for part in parts if not KIND_WORDS.fullmatch(part.lower())] or parts[-1:]
