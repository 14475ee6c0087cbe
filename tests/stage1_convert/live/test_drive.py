"""Actions become commands in the robot's units, no faster than the limit, and none without an observation."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.act.checkpoint import Checkpoint
from common.act.records import Robot
from common.cli.command import UserError
from common.cli.config import load
from common.lerobot.images import resize
from common.policy import Policy
from stage1_convert.config import Config
from stage1_convert.live.drive import CommandTopic, DriveConfig, Driver, Motion, limit_speed, to_targets
from stage1_convert.live.observe import Observation, Refusal

TWO = "conventions.joint_order=[a, b]"
FIELD = "data.state_fields={gripper: '/gripper:data'}", "conventions.action_fields=[gripper]"


def config(*overrides: str) -> Config:
    return load(Config, None, [TWO, *overrides])


def targets(config: Config, action: list[float], **current: float) -> dict[str, float]:
    return to_targets(np.array(action, np.float32), current, config)


def test_a_delta_is_added_to_where_the_joints_are_with_the_signs_of_the_dataset() -> None:
    signed = config("conventions.apply_joint_sign=true", "conventions.joint_sign=[1, -1]", *FIELD)
    found = targets(signed, [0.25, 0.5, -0.125], a=4.0, b=1.0, gripper=0.5)
    assert found == {"a": 4.25, "b": 0.5, "gripper": 0.375}


@pytest.mark.parametrize("meaning", ["next_position", "command"])
def test_a_position_is_a_target(meaning: str) -> None:
    plain = config(f"conventions.action={meaning}", "data.command_topic=/leader", *FIELD)
    assert targets(plain, [0.25, 0.5, 0.75], a=4.0, b=1.0, gripper=0.0) == {"a": 0.25, "b": 0.5, "gripper": 0.75}


def test_a_wrapped_position_is_reached_on_the_shortest_arc() -> None:
    wrapped = config("conventions.action=next_position", "conventions.wrap_angles=true")
    found = targets(wrapped, [-3.0, 0.5], a=3.0, b=0.0)
    assert found["a"] == pytest.approx(math.tau - 3.0)
    assert found["b"] == pytest.approx(0.5)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2),
    st.lists(st.floats(-10, 10), min_size=2, max_size=2),
    st.sampled_from([1, 15, 30]),
)
def test_no_target_is_further_than_the_limit_allows(wanted: list[float], current: list[float], fps: int) -> None:
    topics = {"/x": CommandTopic(names=["a", "b"])}
    drive = DriveConfig(commands=topics, max_speed=0.5, max_speed_by_name={"b": 2.0})
    now = dict(zip("ab", current, strict=True))
    found = limit_speed(dict(zip("ab", wanted, strict=True)), now, drive, fps)
    for name, target, speed in zip("ab", wanted, (0.5, 2.0), strict=True):
        assert abs(found[name] - now[name]) <= speed / fps + 1e-9
        if abs(target - now[name]) <= speed / fps:
            assert found[name] == pytest.approx(target, abs=1e-12)  # the difference may have been rounded


JOINTS = [f"j{number}" for number in range(6)]
DRIVE = DriveConfig(commands={"/x": CommandTopic(names=JOINTS)}, max_speed=0.3)
SEEN = Observation(1, np.zeros(6, np.float32), {"color": np.zeros((128, 192, 3), np.uint8)}, {})
CURRENT = dict.fromkeys(JOINTS, 0.5)


def six(*overrides: str) -> Config:
    return load(Config, None, [f"conventions.joint_order=[{', '.join(JOINTS)}]", *overrides])


@pytest.fixture
def policy(act_tiny: Path) -> Policy:
    """LeRobot's own tiny checkpoint, with the facts that our trainings add."""
    return Policy(replace(Checkpoint.read(act_tiny), robot=Robot(tuple(JOINTS), 30, "delta", False)))


def test_an_observation_gives_a_motion_and_a_refusal_none_after_which_the_policy_looks_again(policy: Policy) -> None:
    driver = Driver(policy, six(), DRIVE)
    motion = driver.step(SEEN, CURRENT)
    assert isinstance(motion, Motion)
    small = resize(SEEN.images["color"], (64, 96))[None]
    action = policy.predict_chunk({"observation.state": SEEN.state[None], "observation.images.color": small})[0, 0]
    expected = np.clip(action.numpy().astype(np.float64), -0.01, 0.01) + 0.5
    np.testing.assert_allclose(list(motion.targets.values()), expected, rtol=0, atol=1e-9)
    assert motion.limited == [name for name, step in zip(JOINTS, action.tolist(), strict=True) if abs(step) > 0.01]
    assert not policy.predicts_next
    refusal = Refusal(2, {"color": "no message has come"})
    assert driver.step(refusal, CURRENT) == refusal
    assert policy.predicts_next


def test_an_action_that_is_not_finite_is_refused(policy: Policy) -> None:
    with torch.no_grad():
        for weights in policy.network.parameters():
            weights.fill_(torch.nan)
    assert Driver(policy, six(), DRIVE).step(SEEN, CURRENT) == Refusal(1, {"policy": "its action is not finite"})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.fps=15"], "fps: the policy has 30, the dataset 15"),
        (["conventions.action=next_position"], "conventions.action: the policy has delta"),
        (["data.cameras={front: /x}"], r"cameras: the policy has \['color'\], the dataset \[\]"),
        (["conventions.joint_order=[j1, j0, j2, j3, j4, j5]"], "names of the action"),
        (["conventions.action=command", "data.action_paths={vx: '/x:y'}"], "data.action_paths"),
    ],
)
def test_a_policy_of_other_data_is_refused(policy: Policy, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Driver(policy, six(*overrides), DRIVE)


def test_every_joint_must_be_on_one_topic(policy: Policy) -> None:
    some = DriveConfig(commands={"/x": CommandTopic(names=JOINTS[:5])})
    with pytest.raises(UserError, match="expected each of j0, j1, j2, j3, j4, j5 once"):
        Driver(policy, six(), some)
    with pytest.raises(UserError, match="j0 is on two topics"):
        load(DriveConfig, None, ["commands={/x: {names: [j0]}, /y: {names: [j0]}}"])
    with pytest.raises(UserError, match=r"max_speed_by_name\.j9=1: expected a speed above 0 of one of"):
        load(DriveConfig, None, ["commands={/x: {names: [j0]}}", "max_speed_by_name={j9: 1}"])


def test_a_gripper_in_its_own_unit_needs_a_limit_of_its_own(policy: Policy) -> None:
    fitting = Policy(replace(policy.checkpoint, robot=Robot((*JOINTS, "gripper"), 30, "delta", False)))
    topics = {"/x": CommandTopic(names=[*JOINTS, "gripper"])}
    with pytest.raises(UserError, match=r"max_speed_by_name\.gripper: missing; max_speed=0\.3 is of joints"):
        Driver(fitting, six(*FIELD), DriveConfig(commands=topics))
    Driver(fitting, six(*FIELD), DriveConfig(commands=topics, max_speed_by_name={"gripper": 500}))
