"""What moves while the arm rests, such as a gripper that closes, is no pause and no idle end: it is what there is to learn."""

from pathlib import Path

import numpy as np
import pytest

from tests.stage1_convert.conversion import report, run, states_of
from tests.stage1_convert.recording import (
    JOINT_STATE,
    JOINTS,
    MS,
    START_NS,
    TYPES,
    RecordedMessage,
    Recording,
    cell,
    joint_state,
    stamp_of,
    with_joints,
)

MOVES_S = 2.5, 3.0  # while the arm rests from 2 s to 4 s
GRIPPER, ARM = (
    "data.state_fields={other: '/gripper:data'}",
    "data.state_fields={other: '/right/joint_states:position[j]'}",
)
IN_ACTION = "conventions.action_fields=[other]"


def resting(field: str, range_of: float) -> Recording:
    """Return a recording of 6 s whose arm rests, and at 50 Hz a gripper's UInt8 or a second arm that move meanwhile."""
    recording = cell(6.0, size=(16, 64))

    def pose(said: RecordedMessage) -> object:
        second = (stamp_of(said) - START_NS) / 1e9
        moved = min(second, 2.0) + max(second - 4.0, 0.0)
        return joint_state(stamp_of(said), JOINTS, np.full(6, 0.3 * moved))

    with_joints(recording, 0, len(recording.joints), pose)
    for number in range(300):
        stamp_ns = START_NS + number * 20 * MS
        value = range_of * np.clip((number / 50 - MOVES_S[0]) / (MOVES_S[1] - MOVES_S[0]), 0, 1)
        if field == ARM:
            told = "/right/joint_states", JOINT_STATE, joint_state(stamp_ns, ["j"], [value])
        else:
            flicker = number % 2  # of the last bit, as sensors have it
            told = "/gripper", "std_msgs/msg/UInt8", TYPES.types["std_msgs/msg/UInt8"](data=int(value) + flicker)
        recording.others.append(RecordedMessage(stamp_ns, *told))
    return recording


@pytest.mark.parametrize(
    ("field", "settings", "range_of"),
    [(GRIPPER, [IN_ACTION], 200.0), (ARM, [IN_ACTION], 0.3), (ARM, [], 0.3)],
    ids=["gripper", "second arm", "second arm driven by commands"],
)
def test_what_moves_while_the_arm_rests_stays(field: str, settings: list[str], range_of: float, tmp_path: Path) -> None:
    resting(field, range_of).write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out", field, *settings, "data.split_pause_s=0.2")
    steps = np.diff(states_of(tmp_path / "out")[:, 6])
    pieces = [(span["reason"], span["frames"] / 30) for span in report(tmp_path / "out")["bags"][0]["left_out"]]
    assert [reason for reason, _ in pieces] == ["pause", "pause"]
    before, after = (seconds for _, seconds in pieces)
    assert 0.15 < before <= 0.5
    assert 0.9 < after <= 1.05
    assert np.abs(steps).max() < 0.15 * range_of, "none of its motion is left out"


def test_a_number_that_is_no_part_of_the_action_may_move_while_the_arm_rests(tmp_path: Path) -> None:
    resting(GRIPPER, 200.0).write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out", GRIPPER, "data.split_pause_s=0.2")
    (pause,) = report(tmp_path / "out")["bags"][0]["left_out"]
    assert pause["frames"] / 30 == pytest.approx(2.0, abs=0.2)
