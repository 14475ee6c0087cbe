"""Readers of joint values and joint commands: by joint name from each message, in the order of the dataset's joints.

A message may hold some of the joints only, as where arm and gripper have publishers of their own: the others are NaN in it.
"""

import functools
import re
from collections.abc import Mapping, Sequence

from rosbags.typesys.store import Typestore

from common.cli.command import UserError
from stage1_convert.bags.cdr import FieldReader, number_reader
from stage1_convert.bags.cdr_layout import MessageLayout, Offset

JOINT_STATE = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ARRAYS = ("std_msgs/msg/Float64MultiArray", "std_msgs/msg/Float32MultiArray")
COMMANDS = (JOINT_STATE, TRAJECTORY, *ARRAYS)

BY_NAME = re.compile(r"(position|velocity|effort)(?:\.(?!\d+$)(\w+)|\[([^\]]+)\])", re.ASCII)
BY_INDEX = re.compile(r"(position|velocity|effort)\.(\d+)", re.ASCII)


@functools.lru_cache(maxsize=64)  # asked for every layout, and the names hardly ever change
def joint_columns(names: tuple[str, ...], wanted: tuple[str, ...]) -> list[int | None] | None:
    """Return where the `wanted` joints stand among `names`, None for those that are not there, and None when none is.

    Raises UserError when one of them is named twice.
    """
    if not set(wanted) & set(names):
        return None
    for joint in wanted:
        if names.count(joint) > 1:
            raise UserError(f"joint {joint} is named twice; the message names {', '.join(names)}")
    return [names.index(joint) if joint in names else None for joint in wanted]


def joint_state_reader(
    types: Typestore, joints: tuple[str, ...], wanted: Sequence[str], renamed: Mapping[str, str] | None = None
) -> FieldReader:
    """Return a reader of the `wanted` ones of position, velocity and effort: all joints of the first, then of the next.

    `renamed` maps names in the messages to those of `joints`.
    """

    def select(layout: MessageLayout) -> list[Offset | None] | None:
        names = layout.names("name")
        columns = joint_columns(_rename(names, renamed), joints)
        if not names:  # drivers send such messages while they start
            given = layout.offsets["position"].length if "position" in layout.offsets else 0
            raise UserError(f"0 joints are named and {given} positions given")
        if columns is None:
            return None
        selected: list[Offset | None] = []
        for field in wanted:
            if field not in layout.offsets:
                raise UserError(
                    f"the definition of {JOINT_STATE} that comes with the messages has no {field}; see data.joint_fields"
                )
            numbers = layout.offsets[field]
            if numbers.length != len(names):
                plural = {"velocity": "velocities"}.get(field, f"{field}s")
                hint = "" if field == "position" else f"; data.joint_fields may leave {field} out"
                raise UserError(f"{len(names)} joints are named and {numbers.length} {plural} given{hint}")
            selected += _elements(numbers, columns)
        return selected

    return FieldReader(types, JOINT_STATE, ("name", *wanted), len(joints) * len(wanted), select)


def command_reader(
    types: Typestore, msgtype: str, joints: tuple[str, ...], renamed: Mapping[str, str] | None = None
) -> FieldReader:
    """Return a reader of every joint's commanded position.

    Positions are found by joint name, as `renamed` by data.command_joints; those of an array, which has no names, must be
    in the order of `joints`.
    """

    def select_first_point(layout: MessageLayout) -> list[Offset | None] | None:
        names = layout.names("joint_names")
        columns = joint_columns(_rename(names, renamed), joints)
        if columns is None:
            return None
        positions = layout.offsets.get("points.0.positions")
        if positions is None or positions.length != len(names):
            given = positions.length if positions else "no point and no"
            raise UserError(f"{len(names)} joints are named and {given} positions given")
        return _elements(positions, columns)

    def select_all(layout: MessageLayout) -> list[Offset | None]:
        data = layout.offsets["data"]
        if data.length != len(joints):
            raise UserError(
                f"holds {data.length} numbers, expected one for each of {', '.join(joints)}; data.action_paths takes "
                "single numbers of a message as actions"
            )
        return [data.element(index) for index in range(data.length)]

    if msgtype == JOINT_STATE:
        return joint_state_reader(types, joints, ["position"], renamed)
    if msgtype == TRAJECTORY:
        return FieldReader(types, msgtype, ("joint_names", "points"), len(joints), select_first_point)
    return FieldReader(types, msgtype, ("data",), len(joints), select_all)


def field_reader(types: Typestore, msgtype: str, path: str) -> FieldReader:
    """Return a reader of one number by its path: of a JointState also by the name of the joint.

    Raises UserError when the type has no number there.
    """
    if msgtype != JOINT_STATE:
        return number_reader(types, msgtype, path)
    by_name, by_index = BY_NAME.fullmatch(path), BY_INDEX.fullmatch(path)
    if by_name:
        return joint_state_reader(types, (by_name[2] or by_name[3],), [by_name[1]])
    return number_reader(types, msgtype, path, ("name",) if by_index else ())


def check_index(path: str, labels: Sequence[Sequence[str]]) -> None:
    """Raise UserError when a path by index, such as position.0, is another joint in some messages of a JointState topic.

    `labels` are the different orders of names in them.
    """
    match = BY_INDEX.fullmatch(path)
    if match is None:
        return
    found = list(dict.fromkeys(names[int(match[2])] for names in labels if int(match[2]) < len(names)))
    if len(found) > 1:
        named = found[-1] if re.fullmatch(r"\w+", found[-1], re.ASCII) and not found[-1].isdecimal() else None
        by_name = f"{match[1]}.{named}" if named else f"{match[1]}[{found[-1]}]"
        raise UserError(
            f"{path} is joint {' in some messages and joint '.join(found[:2])} in others; name the joint, as in {by_name}"
        )


def _rename(names: tuple[str, ...], renamed: Mapping[str, str] | None) -> tuple[str, ...]:
    return tuple(renamed.get(name, name) for name in names) if renamed else names


def _elements(numbers: Offset, columns: Sequence[int | None]) -> list[Offset | None]:
    return [None if column is None else numbers.element(column) for column in columns]
