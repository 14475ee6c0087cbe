"""The settings of a conversion: what to read from a bag, how to align it, and what the numbers mean."""

import re
from dataclasses import dataclass
from typing import Literal

from common.config import option, section

JOINTS = "joints"  # the name of the joint stream beside the cameras' names
UR_JOINTS = [
    "shoulder_pan_joint",
    "shoulder_lift_joint",
    "elbow_joint",
    "wrist_1_joint",
    "wrist_2_joint",
    "wrist_3_joint",
]
Resample = Literal["hold", "nearest", "linear"]


@dataclass(frozen=True)
class DataConfig:
    """What is read from a bag and how its streams are aligned."""

    joint_topic: str = option("/joint_states", "topic of the sensor_msgs/JointState messages")
    cameras: dict[str, str] = option(
        {"color": "/camera/color/image_raw"}, "camera name -> image topic, itself or its /compressed sibling"
    )
    fps: int = option(30, "frames per second of the dataset", 1, 1000)
    resample: Resample = option(
        "hold",
        "hold: newest sample not after the frame, what a robot sees live; nearest: may look ahead; linear: joints are "
        "interpolated and pictures nearest",
    )
    max_age_ms: float = option(100.0, "hold: a frame whose newest sample is older is a gap", 0, 60_000)
    max_offset_ms: float = option(50.0, "nearest, linear: a frame whose samples lie further off is a gap", 0, 60_000)
    time_source: Literal["auto", "header", "receive"] = option(
        "auto", "clock of each stream; auto: the header's where it is sound, else the receive time"
    )
    on_gap: Literal["split", "fail"] = option("split", "a gap ends the episode, or refuses the bag")
    min_episode_s: float = option(0.5, "shorter pieces between gaps are left out", 0, 3600)
    ros_distro: Literal["dashing", "eloquent", "foxy", "galactic", "humble", "iron", "jazzy", "kilted", "lyrical"] = (
        option("humble", "message definitions for bags that carry none")
    )
    robot_type: str = option("ur10e", "robot_type in the dataset's info.json")
    task: str = option("Move the arm as demonstrated.", "what the demonstrations show, in words")

    def __post_init__(self) -> None:
        """Refuse cameras that cannot become columns."""
        if not self.cameras:
            raise ValueError("data.cameras={}: expected at least one camera, such as {color: /camera/color/image_raw}")
        for name in self.cameras:
            if not re.fullmatch(r"\w+", name, re.ASCII) or name == JOINTS:
                raise ValueError(
                    f"data.cameras.{name}: expected a name of letters, digits and _, other than {JOINTS!r}"
                )
        topics = [self.joint_topic, *self.cameras.values()]
        if len(set(topics)) != len(topics):
            raise ValueError(f"data.cameras: expected a topic of its own for every stream, got {', '.join(topics)}")
        if not self.task.strip():
            raise ValueError("data.task is empty: expected a sentence that says what the demonstrations show")


@dataclass(frozen=True)
class ConventionsConfig:
    """What the numbers and pictures in the dataset mean."""

    joint_order: list[str] = option(UR_JOINTS, "joints of the state and the action, picked by name in every message")
    apply_joint_sign: bool = option(False, "multiply the joint angles by joint_sign")
    joint_sign: list[float] = option([1.0, -1.0, -1.0, 1.0, 1.0, 1.0], "+1 or -1 for each joint of joint_order")
    wrap_angles: bool = option(False, "wrap the joint angles of the state to (-pi, pi]")
    action: Literal["delta", "next_position"] = option(
        "delta", "action[t]: state[t+1] - state[t] the shorter way around, or state[t+1]"
    )
    image_resize: list[int] | None = option(None, "[height, width] of the stored pictures; null: as recorded", 8, 4096)
    jpeg_quality: int = option(95, "quality of pictures that are not already JPEG", 1, 100)

    def __post_init__(self) -> None:
        """Refuse joints that are named twice and signs that do not fit them."""
        if not self.joint_order or len(set(self.joint_order)) != len(self.joint_order):
            raise ValueError(f"conventions.joint_order={self.joint_order}: expected each joint once, and at least one")
        if self.apply_joint_sign and len(self.joint_sign) != len(self.joint_order):
            raise ValueError(
                f"conventions.joint_sign has {len(self.joint_sign)} entries, joint_order {len(self.joint_order)}: "
                "expected one for each joint"
            )
        if any(sign not in (1.0, -1.0) for sign in self.joint_sign):
            raise ValueError(f"conventions.joint_sign={self.joint_sign}: expected only +1 and -1")
        if self.image_resize is not None and len(self.image_resize) != 2:
            raise ValueError(f"conventions.image_resize={self.image_resize}: expected [height, width] or null")


@dataclass(frozen=True)
class Config:
    """The whole configuration of stage 1."""

    data: DataConfig = section(DataConfig)
    conventions: ConventionsConfig = section(ConventionsConfig)
