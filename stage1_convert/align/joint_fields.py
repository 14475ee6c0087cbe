"""Readers of joint values and joint commands: by joint name from each message, in the order of the dataset's joints."""

import functools
from collections.abc import Sequence

from rosbags.typesys.store import Typestore

from common.cli.command import UserError
from stage1_convert.bags.cdr import FieldReader
from stage1_convert.bags.cdr_layout import MessageLayout, Offset

JOINT_STATE = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ARRAY = "std_msgs/msg/Float64MultiArray"
COMMANDS = (JOINT_STATE, TRAJECTORY, ARRAY)


@functools.lru_cache(maxsize=64)  # asked for every layout, and the names hardly ever change
def joint_columns(names: tuple[str, ...], wanted: tuple[str, ...]) -> list[int] | None:
    """Return where the `wanted` joints stand among `names`, None when the message is about other joints only.

    Raises UserError when some of the wanted joints are there and others are missing, or one is named twice.
    """
    if not set(wanted) & set(names):
        return None
    for joint in wanted:
        if names.count(joint) != 1:
            fault = "is missing" if joint not in names else "is named twice"
            raise UserError(f"joint {joint} {fault}; the message names {', '.join(names)}")
    return [names.index(joint) for joint in wanted]


def joint_state_reader(types: Typestore, joints: tuple[str, ...], wanted: Sequence[str]) -> FieldReader:
    """Return a reader of the `wanted` ones of position, velocity and effort: all joints of the first, then of the next."""

    def select(layout: MessageLayout) -> list[Offset] | None:
        names = layout.names("name")
        columns = joint_columns(names, joints)
        if columns is None:
            given = layout.offsets["position"].length if "position" in layout.offsets else 0
            if not names and given:
                raise UserError(f"0 joints are named and {given} positions given")
            return None
        selected = []
        for field in wanted:
            if field not in layout.offsets:
                raise UserError(f"the definition of {JOINT_STATE} that comes with the messages has no {field}")
            numbers = layout.offsets[field]
            if numbers.length != len(names):
                plural = {"velocity": "velocities"}.get(field, f"{field}s")
                raise UserError(f"{len(names)} joints are named and {numbers.length} {plural} given")
            selected += [numbers.element(column) for column in columns]
        return selected

    return FieldReader(types, JOINT_STATE, ("name", *wanted), len(joints) * len(wanted), select)


def command_reader(types: Typestore, msgtype: str, joints: tuple[str, ...]) -> FieldReader:
    """Return a reader of every joint's commanded position.

    Positions are found by joint name; those of an array, which has no names, must be in the order of `joints`.
    """

    def select_first_point(layout: MessageLayout) -> list[Offset] | None:
        names = layout.names("joint_names")
        columns = joint_columns(names, joints)
        if columns is None:
            return None
        positions = layout.offsets.get("points.0.positions")
        if positions is None or positions.length != len(names):
            given = positions.length if positions else "no point and no"
            raise UserError(f"{len(names)} joints are named and {given} positions given")
        return [positions.element(column) for column in columns]

    def select_all(layout: MessageLayout) -> list[Offset]:
        data = layout.offsets["data"]
        if data.length != len(joints):
            raise UserError(f"holds {data.length} numbers, expected one for each of {', '.join(joints)}")
        return [data.element(index) for index in range(data.length)]

    if msgtype == JOINT_STATE:
        return joint_state_reader(types, joints, ["position"])
    if msgtype == TRAJECTORY:
        return FieldReader(types, msgtype, ("joint_names", "points"), len(joints), select_first_point)
    return FieldReader(types, msgtype, ("data",), len(joints), select_all)
