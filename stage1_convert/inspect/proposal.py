"""Propose a configuration for surveyed bags, as YAML. Pure."""

import math
import re
from collections.abc import Sequence
from typing import Any

import yaml

from stage1_convert.align.joint_fields import ARRAYS, JOINT_STATE, TRAJECTORY
from stage1_convert.config import UR_JOINTS
from stage1_convert.inspect.survey import Survey, TopicStats

FPS = 30
DEFAULT_AGE_MS = 100.0  # of data.max_age_ms
# Parts of a topic's name that describe the kind of image and not the camera.
KIND_WORDS = re.compile(
    r"(image|video)(_?(raw|rect|color|mono|compressed|transport))*|compressed(depth)?|ffmpeg|rgb|raw"
)
NUMBER_TYPES = re.compile(r"std_msgs/msg/(Float32|Float64|U?Int(8|16|32|64)|Bool)")


def propose(surveys: Sequence[Survey]) -> str | None:
    """Return the YAML of a configuration; None when no bag has both joints and a camera.

    Topics are those of the first bag that has both, since a configuration names one set of topics.
    """
    for survey in surveys:
        joints, cameras = _joint_topic(survey), _cameras(survey)
        if joints and cameras:
            return _yaml(survey, joints, cameras)
    return None


def _yaml(survey: Survey, joints: TopicStats, cameras: dict[str, TopicStats]) -> str:
    order = _joint_order(joints)
    is_ur = _ur_joints(joints) is not None
    slowest_hz = min((stats.median_rate_hz or FPS for stats in cameras.values()), default=FPS)
    fps = FPS if slowest_hz > 0.9 * FPS else max(1, round(slowest_hz))
    data: dict[str, Any] = {
        "joint_topic": joints.name,
        "cameras": {name: _plain(stats.name) for name, stats in cameras.items()},
        "fps": fps,
        "robot_type": "ur10e" if is_ur else "robot",
        "task": survey.custom.get("task") or "Move the arm as demonstrated.",
    }
    if 2500 / slowest_hz > DEFAULT_AGE_MS:  # one lost image must not end an episode
        data["max_age_ms"] = float(math.ceil(2500 / slowest_hz))
    tree = {"data": data, "conventions": {"joint_order": order, "action": "delta"}}
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)
    return "".join(f"# {line}\n" for line in _remarks(survey, joints, cameras)) + text


def _remarks(survey: Survey, joints: TopicStats, cameras: dict[str, TopicStats]) -> list[str]:
    rates = [f"{name} {stats.median_rate_hz or 0:.1f} Hz" for name, stats in {"joints": joints, **cameras}.items()]
    lines = [f"proposed from bag {survey.name}: {', '.join(rates)}"]
    commands = [f.name for f in survey.topics if f.type in (TRAJECTORY, *ARRAYS) and f.read]
    if commands:
        lines.append(
            f"commands to take actions from (data.command_topic, conventions.action: command): {', '.join(commands)}"
        )
    numbers = [f.name for f in survey.topics if NUMBER_TYPES.fullmatch(f.type) and f.read]
    if numbers:
        lines.append(f"numbers for the state (data.state_fields: {{name: 'TOPIC:data'}}): {', '.join(numbers)}")
    others = [
        f.name for f in survey.topics if f.camera and f.read and _plain(f.name) not in map(_plain, _names(cameras))
    ]
    if others:
        lines.append(f"images that cannot be converted: {', '.join(others)}")
    return lines


def _names(cameras: dict[str, TopicStats]) -> list[str]:
    return [stats.name for stats in cameras.values()]


def _joint_topic(survey: Survey) -> TopicStats | None:
    """The JointState topic with the joints of a UR arm, or else with the most joints, or else with the most messages."""
    found = [f for f in survey.topics if f.type == JOINT_STATE and f.orders and any(o.names for o in f.orders)]
    return max(found, key=lambda f: (_ur_joints(f) is not None, len(_fullest(f)), f.read), default=None)


def _joint_order(stats: TopicStats) -> list[str]:
    """The joints of the arm: those of a UR in kinematic order, others as in most messages."""
    return _ur_joints(stats) or list(_fullest(stats))


def _fullest(stats: TopicStats) -> tuple[str, ...]:
    return max(stats.orders, key=lambda order: (len(order.names), order.messages)).names


def _ur_joints(stats: TopicStats) -> list[str] | None:
    """The six joints of a UR arm with whatever prefix they share; other joints in the message are left out."""
    for order in stats.orders:
        for first in order.names:
            prefix = first.removesuffix(UR_JOINTS[0])
            wanted = [prefix + joint for joint in UR_JOINTS]
            if first.endswith(UR_JOINTS[0]) and set(wanted) <= set(order.names):
                return wanted
    return None


def _cameras(survey: Survey) -> dict[str, TopicStats]:
    """Every topic whose images can be decoded, by a name made from the topic's; a raw topic and its siblings count once."""
    chosen: dict[str, TopicStats] = {}
    for stats in sorted(survey.topics, key=lambda f: (not f.name.endswith("/compressed"), f.name)):
        if stats.camera and stats.camera.image is not None and stats.read:
            chosen.setdefault(_plain(stats.name), stats)
    parts = {topic: _words(topic) for topic in chosen}
    names: dict[str, TopicStats] = {}
    for topic in sorted(chosen):
        ambiguous = any(other != topic and parts[other][-1] == parts[topic][-1] for other in parts)
        name = "_".join(parts[topic][-2:] if ambiguous else parts[topic][-1:])
        name = re.sub(r"\W+", "_", name, flags=re.ASCII)
        while name in names or name in ("joints", "command"):
            name += "_2"
        names[name] = chosen[topic]
    return names


def _plain(topic: str) -> str:
    """The raw topic of a compressed sibling; a configuration that names it accepts either."""
    return topic.removesuffix("/compressed")


def _words(topic: str) -> list[str]:
    """The parts of a topic's name that distinguish cameras."""
    parts = [part for part in topic.split("/") if part]
    return [part for part in parts if not KIND_WORDS.fullmatch(part.lower())] or parts[-1:]
