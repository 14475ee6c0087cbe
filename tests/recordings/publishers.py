"""Recordings in which several publishers share a topic, or commands come in other ways than joint by joint."""

import numpy as np

from tests.stage1_convert.recording import (
    JOINT_STATE,
    JOINT_TOPIC,
    JOINTS,
    MS,
    START_NS,
    TYPES,
    RecordedMessage,
    Recording,
    cell,
    header,
    joint_state,
    stamp_of,
)

FINGER = "finger_joint"
LEADER_TOPIC, ARRAY_TOPIC, TWIST_TOPIC = "/leader/joint_states", "/commands", "/servo/twist"
ARRAY, TWIST, VECTOR = "std_msgs/msg/Float32MultiArray", "geometry_msgs/msg/TwistStamped", "geometry_msgs/msg/Vector3"


def gripper_with_publisher_of_its_own(hz: int = 50, seconds: float = 3.0) -> Recording:
    """Return a cell whose gripper publishes on the arm's topic, by itself: at t seconds it is open by t / 10."""
    recording = cell(seconds, size=(16, 64))
    for number in range(round(seconds * hz)):
        stamp_ns = START_NS + 3 * MS + number * 10**9 // hz
        message = joint_state(stamp_ns, [FINGER], [(stamp_ns - START_NS) / 1e10])
        recording.others.append(RecordedMessage(stamp_ns + MS, JOINT_TOPIC, JOINT_STATE, message))
    return recording


def gripper_in_the_arms_message(seconds: float = 1.5) -> Recording:
    """Return a cell whose gripper is the last joint of the arm's messages; the n-th one opens it by n / 1000."""
    recording = cell(seconds, size=(16, 64))
    for number, said in enumerate(recording.joints):
        names, positions = [*said.message.name, FINGER], [*said.message.position, number / 1000]
        recording.joints[number] = said._replace(message=joint_state(stamp_of(said), names, positions))
    return recording


def zeros_beside_the_arm(hz: int = 10, names: list[str] | None = None) -> Recording:
    """Return a cell in which a second publisher says, at `hz`, that all joints of the arm are at zero."""
    recording = cell(size=(16, 64))
    names = recording.joints[0].message.name if names is None else names
    for number in range(round(1.5 * hz)):
        stamp_ns = START_NS + 5 * MS + number * 10**9 // hz
        message = joint_state(stamp_ns, names, np.zeros(len(names)))
        recording.others.append(RecordedMessage(stamp_ns + MS, JOINT_TOPIC, JOINT_STATE, message))
    return recording


def commands_of_many_kinds() -> Recording:
    """Return a cell with a leader arm whose joints are called leader_..., an array, and a twist; all follow the arm.

    The leader is ahead of the arm by 0.25 rad, the array by 0.5 rad; the n-th twist moves along z by n / 100.
    """
    recording = cell(size=(16, 64))
    layout = TYPES.types["std_msgs/msg/MultiArrayLayout"]([], 0)
    for number, said in enumerate(recording.joints):
        names, angles = said.message.name, said.message.position
        leader = joint_state(stamp_of(said), [f"leader_{name}" for name in names], angles + 0.25)
        by_name = dict(zip(names, angles, strict=True))
        array = TYPES.types[ARRAY](layout, np.array([by_name[joint] + 0.5 for joint in JOINTS], np.float32))
        still = TYPES.types[VECTOR](0.0, 0.0, 0.0)
        linear = TYPES.types[VECTOR](0.1, 0.2, number / 100)
        twist = TYPES.types[TWIST](header(stamp_of(said)), TYPES.types["geometry_msgs/msg/Twist"](linear, still))
        messages = ((LEADER_TOPIC, JOINT_STATE, leader), (ARRAY_TOPIC, ARRAY, array), (TWIST_TOPIC, TWIST, twist))
        recording.others += [RecordedMessage(said.receive_ns, *message) for message in messages]
    return recording
