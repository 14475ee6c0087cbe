"""Choose the joints that a configuration proposes, and name those that it leaves out. Pure."""

import math
import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from stage1_convert.config import JOINTS, UR_JOINTS, DataConfig
from stage1_convert.inspect.survey import Survey, TopicStats
from stage1_convert.streams.joint_fields import JOINT_STATE
from stage1_convert.streams.shortage import MAX_LIMIT_MS, patient_limit_ms

GRIPPER = re.compile(r"finger|gripper|jaw|hand", re.IGNORECASE)
PASSIVE = re.compile(r"knuckle|mimic|inner|_tip|_pad", re.IGNORECASE)  # parts of a gripper that follow its one joint
DRIVEN = re.compile(r"robotiq_85_left_knuckle_joint$")  # that one joint, of a Robotiq 2F-85 in ROS 2
COMMANDED = re.compile(r"leader|command|target|desired|reference|master|gello|teleop", re.IGNORECASE)
SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
GRIPPER_TOPIC = re.compile(r"gripper|robotiq", re.IGNORECASE)
NUMBERS = re.compile(r"std_msgs/msg/(Float32|Float64|U?Int(8|16|32|64)|Bool)")
GRIPPER_COMMAND = "control_msgs/msg/GripperCommand"
DEFAULT_AGE_MS = DataConfig().max_age_ms
ON_CHANGE_MS = 1000  # between two messages; a slower joint is taken for one that publishes on change


class JointChoice(NamedTuple):
    """The joints to propose in joint_order, state fields of other topics, limits of slow ones, and remarks."""

    order: list[str]
    fields: dict[str, str]
    max_age_ms: dict[str, float]
    is_ur: bool
    remarks: list[str]


def is_commanded(topic: TopicStats) -> bool:
    """Tell whether a topic of joint states holds commands, by its name: a leader arm's, for instance."""
    return topic.type == JOINT_STATE and bool(COMMANDED.search(topic.name))


def choose_joint_topic(survey: Survey) -> TopicStats | None:
    """Return the JointState topic with a UR arm's joints, or else with the most joints, or else with the most messages."""
    found = [topic for topic in _joint_topics(survey) if not is_commanded(topic)] or _joint_topics(survey)
    return max(found, key=lambda topic: (bool(_ur_arms(topic)), len(joint_names(topic)), topic.read), default=None)


def choose_joints(survey: Survey, topic: TopicStats, taken: Collection[str] = ()) -> JointChoice:
    """Return which joints of a bag to propose: arms and grippers, those of other topics and messages as state fields.

    Names that are `taken`, such as a camera's, become no names of fields.
    """
    arms, names = _ur_arms(topic), joint_names(topic)
    grippers = [name for name in names if _is_gripper(name) and name not in arms]
    order = [*arms, *grippers] if arms else names
    fields: dict[str, str] = {}
    limits = dict(_slow_joints(survey, topic, order))
    left_out = {topic.name: [name for name in names if name not in order]}
    for other in _joint_topics(survey):
        if other.name == topic.name:
            continue
        further = _further(other, topic, order)
        for wanted, joint in further.items():
            name = wanted
            while name in (*order, *fields, *taken, "joints", "command"):
                name += "_2"
            fields[name] = f"{other.name}:position[{joint}]"
            if (limit_ms := _limit_ms(other.read, survey.seconds)) is not None:
                limits[name] = limit_ms
        left_out[other.name] = [name for name in joint_names(other) if name not in further.values()]
    if not any(map(GRIPPER.search, [*order, *fields.values()])):
        for name, number in _gripper_numbers(survey).items():
            if name not in (*order, *taken):
                fields[name] = number_path(number)
                limit_ms = patient_limit_ms(_longest_ms(number))
                if limit_ms > DEFAULT_AGE_MS:
                    limits[name] = limit_ms
    told = {name: joints for name, joints in left_out.items() if joints}
    remarks = [f"joints that are left out: {name}: {', '.join(joints)}" for name, joints in told.items()]
    commanded = {other.name for other in _joint_topics(survey) if is_commanded(other)} - {topic.name}
    if leaders := [name for name in told if name in commanded]:
        remarks.append(
            f"by their names, those of {', '.join(leaders)} are commands of an operator, which no policy sees"
        )
    if set(told) - commanded:
        remarks.append(
            f"add them to conventions.joint_order where they are of {topic.name}, else to data.state_fields as "
            "{name: 'TOPIC:position[JOINT]'}, and what the policy moves to conventions.action_fields"
        )
    return JointChoice(order, fields, limits, bool(arms), remarks)


def _joint_topics(survey: Survey) -> list[TopicStats]:
    return [topic for topic in survey.topics if topic.type == JOINT_STATE and joint_names(topic)]


def joint_names(topic: TopicStats) -> list[str]:
    """Return every joint that a topic names: those of its fullest messages first."""
    orders = sorted(topic.orders, key=lambda order: (-len(order.names), -order.messages))
    return list(dict.fromkeys(name for order in orders for name in order.names))


def _ur_arms(topic: TopicStats) -> list[str]:
    """Return the joints of every UR arm, in kinematic order, with whatever prefix those of one arm share."""
    names = joint_names(topic)
    prefixes = sorted(name.removesuffix(UR_JOINTS[0]) for name in names if name.endswith(UR_JOINTS[0]))
    arms = [[prefix + joint for joint in UR_JOINTS] for prefix in prefixes]
    return [joint for arm in arms if set(arm) <= set(names) for joint in arm]


def _is_gripper(name: str) -> bool:
    return bool(DRIVEN.search(name) or (GRIPPER.search(name) and not PASSIVE.search(name)))


def _further(other: TopicStats, topic: TopicStats, order: Sequence[str]) -> dict[str, str]:
    """Return the joints of another topic to propose, by the names of their state fields.

    They are its grippers, and the second arm of a cell, whose topics are told apart by left and right.
    """
    if is_commanded(other):
        return {}
    side, main = SIDE.search(other.name), SIDE.search(topic.name)
    is_other_side = bool(side and main and side[1].lower() != main[1].lower())
    ordered = dict.fromkeys([*_ur_arms(other), *joint_names(other)])
    names = [name for name in ordered if is_other_side or (name not in order and _is_gripper(name))]
    prefix = f"{side[1].lower()}_" if side and is_other_side else ""
    if all(name.lower().startswith(prefix) for name in names):
        prefix = ""  # its joints say already of which arm they are
    return {re.sub(r"\W+", "_", prefix + name, flags=re.ASCII): name for name in names}


def number_path(topic: TopicStats) -> str:
    """Return TOPIC:PATH of the number that the messages of a topic hold; "" when they hold none, or more than one."""
    path = "position" if topic.type == GRIPPER_COMMAND else "data" if NUMBERS.fullmatch(topic.type) else ""
    return f"{topic.name}:{path}" if path and topic.read else ""


def _gripper_numbers(survey: Survey) -> dict[str, TopicStats]:
    """Return the topics of plain numbers that are certainly the opening of a gripper, by the names of their state fields.

    They publish at a rate and are the only ones of their side: what is measured, or else what is commanded.
    """
    numbers = [topic for topic in survey.topics if number_path(topic) and not topic.type.endswith("/Bool")]
    found = [topic for topic in numbers if GRIPPER_TOPIC.search(topic.name) and _longest_ms(topic) < ON_CHANGE_MS]
    measured = [topic for topic in found if topic.type != GRIPPER_COMMAND and not COMMANDED.search(topic.name)]
    by_name: dict[str, list[TopicStats]] = {}
    for topic in measured or found:
        side = SIDE.search(topic.name)
        by_name.setdefault(f"{side[1].lower()}_gripper" if side else "gripper", []).append(topic)
    return {name: topics[0] for name, topics in by_name.items() if len(topics) == 1}


def _longest_ms(topic: TopicStats) -> float:
    """Return the longest time between two messages of a topic."""
    return float(topic.intervals_ms.max(initial=0.0)) if topic.read > 1 else math.inf


def _slow_joints(survey: Survey, topic: TopicStats, order: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield the stream and the limit of every joint in messages of its own that come too rarely for the usual limit."""
    main = max(topic.orders, key=lambda item: (len(set(item.names) & set(order)), item.messages)).names
    for joint in order:
        limit_ms = _limit_ms(sum(item.messages for item in topic.orders if joint in item.names), survey.seconds)
        if joint not in main and limit_ms is not None:
            yield f"{JOINTS}.{joint}", limit_ms


def _limit_ms(messages: int, seconds: float) -> float | None:
    """Return a limit that bridges a lost message, or the longest for a joint that publishes on change; None: the usual."""
    interval_ms = 1000 * seconds / max(messages, 1)
    if interval_ms > ON_CHANGE_MS:
        return MAX_LIMIT_MS
    limit_ms = patient_limit_ms(interval_ms)
    return limit_ms if limit_ms > DEFAULT_AGE_MS else None
