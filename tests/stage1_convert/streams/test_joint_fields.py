"""Joints are found by name in every message."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.cli.command import UserError
from stage1_convert.streams.joint_fields import ARRAYS, TRAJECTORY, command_reader, joint_columns
from tests.stage1_convert.recording import START_NS, TYPES, header


@given(st.permutations(["a", "b", "c", "gripper"]))
def test_columns_are_found_by_name(names: list[str]) -> None:
    found = joint_columns(tuple(names), ("c", "a", "b"))
    assert found == [names.index(joint) for joint in ("c", "a", "b")]


def test_a_doubled_joint_is_refused() -> None:
    with pytest.raises(UserError, match="b is named twice"):
        joint_columns(("a", "b", "b"), ("a", "b"))


def trajectory(names: list[str], *points: list[float]) -> Any:
    none, start = np.zeros(0), TYPES.types["builtin_interfaces/msg/Duration"](0, 0)
    point = TYPES.types["trajectory_msgs/msg/JointTrajectoryPoint"]
    positions = [np.asarray(values, np.float64) for values in points]
    return TYPES.types[TRAJECTORY](
        header(START_NS), names, [point(values, none, none, none, start) for values in positions]
    )


def array(*values: float) -> Any:
    layout = TYPES.types["std_msgs/msg/MultiArrayLayout"]([], 0)
    return TYPES.types[ARRAYS[0]](layout, np.asarray(values, np.float64))


def test_of_a_trajectory_the_first_point_is_the_command_by_joint_name() -> None:
    messages = [
        trajectory(["b", "a"], [1, 2], [3, 4]),
        trajectory(["a", "b"], [5, 6]),
        trajectory(["x"], [0]),
        trajectory(["a", "b"]),
        trajectory(["a"], [1]),
    ]
    data = [bytes(TYPES.serialize_cdr(message, TRAJECTORY)) for message in messages]
    found = command_reader(TYPES, TRAJECTORY, ("a", "b")).read(data)
    np.testing.assert_array_equal(found.values[[0, 1, 4]], [[2, 1], [5, 6], [1, np.nan]])
    assert found.relevant.tolist() == [True, True, False, True, True]
    assert found.faults == {3: "2 joints are named and no point and no positions given"}


def test_an_array_of_commands_has_one_number_for_each_joint() -> None:
    data = [bytes(TYPES.serialize_cdr(message, ARRAYS[0])) for message in (array(1, 2), array(1, 2, 3))]
    found = command_reader(TYPES, ARRAYS[0], ("a", "b")).read(data)
    assert found.values[0].tolist() == [1.0, 2.0]
    assert list(found.faults) == [1]
    assert found.faults[1].startswith("holds 3 numbers, expected one for each of a, b; data.action_paths")
