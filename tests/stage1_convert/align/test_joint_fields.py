"""Joints are found by name in every message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.cli.command import UserError
from stage1_convert.align.joint_fields import joint_columns


@given(st.permutations(["a", "b", "c", "gripper"]))
def test_columns_are_found_by_name(names: list[str]) -> None:
    found = joint_columns(tuple(names), ("c", "a", "b"))
    assert found is not None
    assert [names[column] for column in found] == ["c", "a", "b"]


def test_a_message_about_other_joints_has_no_columns() -> None:
    assert joint_columns(("finger",), ("a", "b")) is None


@pytest.mark.parametrize(
    ("names", "words"), [(["a", "x"], "joint b is missing"), (["a", "b", "b"], "b is named twice")]
)
def test_missing_and_doubled_joints_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        joint_columns(tuple(names), ("a", "b"))
