"""Joints are joined by name over the messages of a topic, and publishers that contradict each other are found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.cli.config import load
from stage1_convert.config import Config
from stage1_convert.streams.joint_groups import (
    JointGroup,
    find_contradiction,
    group_joints,
    partly_missing,
)

MS = 1_000_000
ARM, GRIPPER = ["a", "b", "c"], "finger"


def grouped(names: list[list[str]], labels: list[int], *overrides: str) -> dict[str, JointGroup]:
    config = load(Config, None, ["conventions.joint_order=[a, b, c, finger]", *overrides])
    return group_joints(names, np.array(labels), "joints", config)


def groups_of(names: list[list[str]], labels: list[int], *overrides: str) -> dict[str, list[bool]]:
    """Return the joints of each group and the messages that they come in."""
    found = grouped(names, labels, *overrides)
    return {" ".join([*ARM, GRIPPER][joint] for joint in group.joints): group.rows.tolist() for group in found.values()}


def test_joints_that_always_come_together_are_one_group_in_whatever_order() -> None:
    found = groups_of([["c", "b", GRIPPER, "a"], [*ARM, GRIPPER, "x"]], [0, 1, 1, -1])
    assert found == {"a b c finger": [True] * 4}


def test_a_gripper_in_messages_of_its_own_is_a_group() -> None:
    found = groups_of([["x"], ARM, [GRIPPER]], [1, 2, 1, -1])
    assert found == {"a b c": [True, False, True, True], "finger": [False, True, False, True]}


def test_a_joint_with_a_limit_of_its_own_is_a_group() -> None:
    setting = "data.max_age_ms_by_stream={joints.finger: 5}"
    assert list(groups_of([[*ARM, GRIPPER]], [0, 0], setting)) == ["a b c", "finger"]
    assert list(grouped([[*ARM, GRIPPER]], [0, 0], setting)) == ["joints", "joints.finger"]


def test_messages_without_names_hold_every_joint() -> None:
    assert groups_of([[]], [0, 0]) == {"a b c finger": [True, True]}


@pytest.mark.parametrize(
    ("names", "missing"), [([ARM, [GRIPPER]], 0), ([[*ARM, GRIPPER], ARM], 1), ([[*ARM, GRIPPER], [GRIPPER]], 1)]
)
def test_only_joints_that_messages_of_others_sometimes_lack_are_partly_missing(
    names: list[list[str]], missing: int
) -> None:
    assert len(partly_missing(list(grouped(names, [0, 1, 0]).values()))) == missing


def motion(hz: float, seconds: float = 3.0, offset_ms: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return stamps and the angles (samples, 2) of a moving arm."""
    time_s = np.arange(0, seconds, 1 / hz) + offset_ms / 1e3
    return (time_s * 1e9).astype(np.int64), np.stack([0.3 + np.sin(time_s), 1 + 0.5 * np.cos(2 * time_s)], axis=1)


def contradiction(
    second: tuple[np.ndarray, np.ndarray], first_hz: float = 100, same_names: bool = True, max_speed: float = 30
) -> str | None:
    """Return what is found where the messages of two publishers, pairs (stamps, angles), come one among the other."""
    first = motion(first_hz)
    stamps_ns = np.concatenate([first[0], second[0]])
    order = np.argsort(stamps_ns, kind="stable")
    labels = np.repeat([0, 0 if same_names else 1], [len(first[0]), len(second[0])])
    return find_contradiction(stamps_ns[order], np.concatenate([first[1], second[1]])[order], labels[order], max_speed)


@pytest.mark.parametrize("same_names", [True, False])
@pytest.mark.parametrize("hz", [10, 100, 300])
def test_zeros_among_the_angles_of_a_moving_arm_are_found_with_both_counts(hz: int, same_names: bool) -> None:
    stamps_ns, angles = motion(hz, offset_ms=2.5)
    found = contradiction((stamps_ns, np.zeros_like(angles)), same_names=same_names)
    assert found is not None
    assert "data.max_joint_speed_rad_s=30" in found
    counts = [int(word) for word in found.split() if word.isdecimal()][1:]
    expected = sorted([300, 3 * hz])
    assert sorted(counts) == expected if not same_names or hz == 10 else sum(counts) == sum(expected)


def test_another_order_of_names_with_values_close_by_is_found() -> None:
    stamps_ns, angles = motion(10, offset_ms=5)
    found = contradiction((stamps_ns, angles + 0.08), same_names=False)
    assert found is not None
    assert "30 messages name the joints in another order than 300 others" in found
    assert "up to 0.08 rad" in found


@pytest.mark.parametrize("same_names", [True, False])
def test_two_publishers_that_agree_are_no_contradiction(same_names: bool) -> None:
    assert contradiction(motion(10, offset_ms=5), same_names=same_names) is None


def test_a_higher_speed_can_be_allowed() -> None:
    stamps_ns, angles = motion(10, offset_ms=5)
    assert contradiction((stamps_ns, np.zeros_like(angles)), max_speed=1e5) is None


def test_an_arm_at_zero_is_no_contradiction() -> None:
    stamps_ns, angles = motion(100)
    angles[50:200] = 0
    assert find_contradiction(stamps_ns, angles, np.zeros(300, np.int64), 30) is None


def test_a_joint_at_half_a_turn_may_change_its_sign() -> None:
    stamps_ns, angles = motion(100)
    angles[:] = np.pi * np.where(np.arange(300) % 2, 1, -1)[:, None]
    assert find_contradiction(stamps_ns, angles, np.zeros(300, np.int64), 30) is None


@given(st.integers(0, 2**32 - 1), st.sampled_from([30, 100, 500]))
def test_a_fast_arm_with_noise_and_jitter_is_no_contradiction(seed: int, hz: int) -> None:
    rng = np.random.default_rng(seed)
    stamps_ns = np.sort(np.arange(2 * hz) * 10**9 // hz + rng.integers(0, 3 * MS, 2 * hz))
    speeds = rng.uniform(-10, 10, 6)
    angles = stamps_ns[:, None] / 1e9 * speeds + rng.normal(0, 0.002, (2 * hz, 6))
    assert find_contradiction(stamps_ns, angles, np.zeros(2 * hz, np.int64), 30) is None
