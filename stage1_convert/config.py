"""The settings of a conversion: what to read from a bag, how to align it, and what the numbers mean."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from common.cli.config import option, section

JOINTS, COMMAND = "joints", "command"  # the names of these streams beside those of the cameras and the state fields
UR_JOINTS = [
    "shoulder_pan_joint",
    "shoulder_lift_joint",
    "elbow_joint",
    "wrist_1_joint",
    "wrist_2_joint",
    "wrist_3_joint",
]
Resample = Literal["hold", "nearest", "linear"]
TimeSource = Literal["auto", "header", "receive"]
JointField = Literal["position", "velocity", "effort"]
FIELD_PATH = re.compile(r"(?P<topic>/?[^:\s]+):(?P<path>\w+(\.\w+)*)", re.ASCII)


@dataclass(frozen=True)
class DataConfig:
    """What is read from a bag and how its streams are aligned."""

    joint_topic: str = option("/joint_states", "topic of the sensor_msgs/JointState messages")
    joint_fields: list[JointField] = option(
        ["position"], "what of every joint goes into the state: position, and velocity or effort on demand"
    )
    state_fields: dict[str, str] = option(
        {},
        "further numbers of the state: name -> TOPIC:path of a field of any message, such as {gripper: "
        "/gripper/state:data, fz: /wrench:wrench.force.z}; a number in the path counts in an array, as in /x:data.0",
    )
    command_topic: str | None = option(
        None,
        "topic of the commands that conventions.action=command stores: JointState, JointTrajectory (first point), or "
        "Float64MultiArray in joint_order",
    )
    cameras: dict[str, str] = option(
        {"color": "/camera/color/image_raw"}, "camera name -> image topic, itself or its /compressed sibling"
    )
    depth_range_m: list[float] = option(
        [0.0, 4.0], "nearest and farthest depth, stored as 0 and 255 (16UC1, mono16 in millimeters, 32FC1 in meters)", 0
    )
    fps: int = option(30, "frames per second of the dataset", 1, 1000)
    grid_delay_ms: float = option(
        0.0,
        "the first frame lies this long after the moment at which every stream has spoken; half a period of the camera "
        "(17 at 30 Hz) keeps its jitter from moving images across a tick, where hold would repeat one and drop one",
        0,
        1000,
    )
    resample: Resample = option(
        "hold",
        "hold: newest sample not after the frame, what a robot sees live; nearest: may look ahead; linear: numbers are "
        "interpolated, angles the shorter way, and images nearest",
    )
    resample_by_stream: dict[str, Resample] = option(
        {}, "the same for single streams: joints, command, a camera's or a state field's name -> hold, nearest, linear"
    )
    max_age_ms: float = option(100.0, "hold: a frame whose newest sample is older is a gap", 0, 60_000)
    max_offset_ms: float = option(50.0, "nearest, linear: a frame whose samples lie further off is a gap", 0, 60_000)
    max_age_ms_by_stream: dict[str, float] = option(
        {}, "the limit of single streams, in place of max_age_ms or max_offset_ms: stream -> milliseconds"
    )
    time_source: TimeSource = option(
        "auto", "clock of each stream; auto: the header's where it is sound, else the receive time"
    )
    time_source_by_stream: dict[str, TimeSource] = option(
        {}, "the same for single streams: stream -> auto, header, receive"
    )
    on_gap: Literal["split", "drop", "fail"] = option(
        "split",
        "a gap ends the episode and the next one starts behind it; or only the longest piece of the bag is kept; or "
        "the bag is refused",
    )
    min_episode_s: float = option(0.5, "shorter pieces between gaps are left out", 0, 3600)
    max_episode_s: float = option(
        1800.0, "a longer piece is split here: float32 timestamps and row groups of 2 GiB end there", 1, 1800
    )
    trim_idle_s: float = option(
        0.0, "when the arm rests longer than this at the start or end, only this much of it is kept; 0: all of it", 0
    )
    split_topic: str | None = option(None, "a message on this topic, of any type, starts a new episode")
    split_pause_s: float = option(
        0.0, "an arm that rests at least this long ends an episode, and the pause is left out; 0: it does not", 0
    )
    include: list[str] = option([], "only bags whose name matches one of these patterns, such as kitchen/*; []: all")
    exclude: list[str] = option([], "no bags whose name matches one of these patterns")
    episodes: dict[str, list[int]] = option(
        {}, "of these bags only these episodes, counted from 0 within the bag, such as {kitchen/7: [0, 2]}"
    )
    ros_distro: Literal["dashing", "eloquent", "foxy", "galactic", "humble", "iron", "jazzy", "kilted", "lyrical"] = (
        option("humble", "message definitions for bags that carry none")
    )
    robot_type: str = option("ur10e", "robot_type in the dataset's info.json")
    task: str = option("Move the arm as demonstrated.", "what the demonstrations show, in words")
    task_from: Literal["config", "bag", "folder"] = option(
        "config",
        "where a bag's task comes from: data.task, the custom data `task` in its metadata.yaml, or its name by "
        "task_pattern; data.task where that gives none",
    )
    task_pattern: str | None = option(
        None, "regular expression with one group, the task, on the bag's name, such as (.+?)/.*; _ becomes a space"
    )
    success_key: str = option(
        "success", "the custom data in metadata.yaml that tells whether a demonstration succeeded, kept in the record"
    )
    storage: Literal["jpeg", "png", "video"] = option(
        "jpeg", "images as JPEG (passed through where possible), PNG, or one H.264 video per episode and camera"
    )
    sync_columns: bool = option(False, "columns sync.<stream>_age_ms: how old each frame's samples are")

    def __post_init__(self) -> None:
        """Refuse streams that cannot become columns and settings for streams that do not exist."""
        if not self.cameras:
            raise ValueError("data.cameras={}: expected at least one camera, such as {color: /camera/color/image_raw}")
        for key, names in (("cameras", self.cameras), ("state_fields", self.state_fields)):
            for name in names:
                if not re.fullmatch(r"\w+", name, re.ASCII) or name in (JOINTS, COMMAND):
                    raise ValueError(
                        f"data.{key}.{name}: expected a name of letters, digits and _, other than {JOINTS!r} "
                        f"and {COMMAND!r}"
                    )
        both = self.cameras.keys() & self.state_fields.keys()
        if both:
            raise ValueError(f"data.state_fields.{min(both)}: a camera has this name; expected another one")
        topics = [self.joint_topic, *self.cameras.values()]
        if len(set(topics)) != len(topics):
            raise ValueError(f"data.cameras: expected a topic of its own for every stream, got {', '.join(topics)}")
        for name, path in self.state_fields.items():
            if not FIELD_PATH.fullmatch(path):
                raise ValueError(f"data.state_fields.{name}={path}: expected TOPIC:path, such as /gripper/state:data")
        if "position" not in self.joint_fields or len(set(self.joint_fields)) != len(self.joint_fields):
            raise ValueError(f"data.joint_fields={self.joint_fields}: expected position, and each field once")
        near, far = self.depth_range_m if len(self.depth_range_m) == 2 else (0.0, 0.0)
        if near >= far:
            raise ValueError(f"data.depth_range_m={self.depth_range_m}: expected [nearest, farthest] in meters")
        if self.min_episode_s > self.max_episode_s:
            raise ValueError(f"data.min_episode_s={self.min_episode_s:g} is longer than data.max_episode_s")
        self._check_streams()
        self._check_episodes()
        self._check_task()

    @property
    def streams(self) -> tuple[str, ...]:
        """Return the names of all streams that a bag may have."""
        return (JOINTS, *self.cameras, *self.state_fields, COMMAND)

    def _check_streams(self) -> None:
        by_stream: dict[str, Mapping[str, Any]] = {
            "resample_by_stream": self.resample_by_stream,
            "max_age_ms_by_stream": self.max_age_ms_by_stream,
            "time_source_by_stream": self.time_source_by_stream,
        }
        for key, values in by_stream.items():
            for name in values:
                if name not in self.streams:
                    raise ValueError(f"data.{key}.{name}: no such stream; there are {', '.join(self.streams)}")
        for name, limit_ms in self.max_age_ms_by_stream.items():
            if not 0 <= limit_ms <= 60_000:
                raise ValueError(f"data.max_age_ms_by_stream.{name}={limit_ms:g}: expected 0 to 60000")
        for name in self.cameras:
            if self.resample_by_stream.get(name) == "linear":
                raise ValueError(f"data.resample_by_stream.{name}=linear: expected hold or nearest for images")

    def _check_episodes(self) -> None:
        for name, numbers in self.episodes.items():
            if not numbers or min(numbers) < 0:
                raise ValueError(
                    f"data.episodes.{name}={numbers}: expected numbers from 0 on; data.exclude leaves out whole bags"
                )

    def _check_task(self) -> None:
        if not self.task.strip():
            raise ValueError("data.task is empty: expected a sentence that says what the demonstrations show")
        if (self.task_from == "folder") != (self.task_pattern is not None):
            raise ValueError("data.task_pattern: expected together with data.task_from=folder, and only then")
        if self.task_pattern is not None:
            try:
                groups = re.compile(self.task_pattern).groups
            except re.error as error:
                raise ValueError(f"data.task_pattern={self.task_pattern}: {error}") from error
            if groups != 1:
                raise ValueError(f"data.task_pattern={self.task_pattern}: expected exactly one group, the task")


@dataclass(frozen=True)
class ConventionsConfig:
    """What the numbers and images in the dataset mean."""

    joint_order: list[str] = option(UR_JOINTS, "joints of the state and the action, picked by name in every message")
    apply_joint_sign: bool = option(False, "multiply the joint angles by joint_sign")
    joint_sign: list[float] = option([1.0, -1.0, -1.0, 1.0, 1.0, 1.0], "+1 or -1 for each joint of joint_order")
    wrap_angles: bool = option(False, "wrap the joint angles of the state to (-pi, pi]")
    action: Literal["delta", "next_position", "command"] = option(
        "delta",
        "action[t]: state[t+1] - state[t] the shorter way around, state[t+1], or what data.command_topic asked for",
    )
    action_fields: list[str] = option([], "names of data.state_fields that are part of the action, too")
    image_resize: list[int] | None = option(None, "[height, width] of the stored images; null: as recorded", 8, 4096)
    jpeg_quality: int = option(95, "quality of images that are not already JPEG", 1, 100)

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

    def __post_init__(self) -> None:
        """Refuse actions that nothing gives and state dimensions that share a name."""
        if self.conventions.action == "command" and self.data.command_topic is None:
            raise ValueError("conventions.action=command: expected data.command_topic, the topic of the commands")
        for name in self.conventions.action_fields:
            if name not in self.data.state_fields:
                known = ", ".join(self.data.state_fields) or "none"
                raise ValueError(f"conventions.action_fields: {name} is no name of data.state_fields; they are {known}")
        for name in self.data.state_fields:
            if name in self.conventions.joint_order:
                raise ValueError(f"data.state_fields.{name}: a joint has this name; expected another one")

    @property
    def streams(self) -> tuple[str, ...]:
        """Return the names of the streams that are read: joints, cameras, state fields, commands if they are used."""
        return self.data.streams if self.conventions.action == "command" else self.data.streams[:-1]

    @property
    def state_names(self) -> tuple[str, ...]:
        """Return the names of the state's dimensions, in order."""
        fields = [(field, joint) for field in self.data.joint_fields for joint in self.conventions.joint_order]
        joints = (joint if field == "position" else f"{joint}.{field}" for field, joint in fields)
        return (*joints, *self.data.state_fields)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Return the names of the action's dimensions, in order."""
        return (*self.conventions.joint_order, *self.conventions.action_fields)
