"""The settings of a conversion: what to read from a bag, how to align it, and what the numbers mean."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from common.cli.config import Section

JOINTS, COMMAND = "joints", "command"  # the names of these streams beside those of the cameras and the state fields
UR_JOINTS = [
    "shoulder_pan_joint",
    "shoulder_lift_joint",
    "elbow_joint",
    "wrist_1_joint",
    "wrist_2_joint",
    "wrist_3_joint",
]
Resample = Literal["auto", "in_order", "hold", "nearest", "linear"]
TimeSource = Literal["auto", "header", "receive"]
JointField = Literal["position", "velocity", "effort"]
# sensor_msgs/image_encodings.hpp's words that stage1_convert/images understands.
Encoding = Literal[
    "rgb8", "bgr8", "rgba8", "bgra8", "mono8", "8UC1", "mono16", "16UC1", "32FC1",
    "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8",
    "bayer_rggb16", "bayer_bggr16", "bayer_gbrg16", "bayer_grbg16",
    "yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21",
]  # fmt: skip
MONO16 = (0, 65535)  # the numbers of 16 bits
FIELD_PATH = re.compile(r"(?P<topic>/?[^:\s]+):(?P<path>\w+(\.\w+)*(\[[^\]]+\])?)", re.ASCII)


class DataConfig(Section):
    """What is read from a bag and how its streams are aligned."""

    joint_topic: str = Field(default="/joint_states", description="topic of the sensor_msgs/JointState messages")
    joint_fields: list[JointField] = Field(
        default=["position"],
        description="fields of every joint in the state: position, and on demand velocity or effort",
    )
    state_fields: dict[str, str] = Field(
        default={},
        description=(
            "further values of the state: name -> TOPIC:path of a numeric field of any message, such as {gripper: "
            "/gripper/state:data, fz: /wrench:wrench.force.z}; a number in the path is an array index, as in /x:data.0; "
            "of a JointState position.NAME, or position[NAME] for any name, is the value of the joint of that name"
        ),
    )
    max_joint_speed_rad_s: float = Field(
        default=30.0,
        gt=0,
        le=1e9,
        description=(
            "joints that leap faster than this and leap back, again and again, are those of two publishers that "
            "contradict each other: the bag is refused"
        ),
    )
    initial_values: dict[str, float] = Field(
        default={},
        description=(
            "values of data.state_fields before their first message: name -> number, for a gripper that publishes on change "
            "only, such as {gripper: 0.0}"
        ),
    )
    command_topic: str | None = Field(
        default=None,
        description=(
            "topic of the commands that conventions.action=command stores: JointState, JointTrajectory (its first "
            "point), or Float64MultiArray or Float32MultiArray in joint_order"
        ),
    )
    command_joints: dict[str, str] = Field(
        default={},
        description=(
            "joints that are called otherwise in the commands: name there -> name in joint_order, such as "
            "{leader_elbow_joint: elbow_joint}"
        ),
    )
    action_paths: dict[str, str] = Field(
        default={},
        description=(
            "further values of the action that are no state: name -> TOPIC:path as in state_fields, such as {vx: "
            "/servo/twist:twist.linear.x}, stored as they were published; with conventions.action=command and no "
            "command_topic they are the whole action"
        ),
    )
    cameras: dict[str, str] = Field(
        default={"color": "/camera/color/image_raw"},
        description="camera name -> image topic, or the topic whose /compressed sibling is recorded",
    )
    depth_range_m: list[Annotated[float, Field(ge=0)]] = Field(
        default=[0.0, 4.0],
        description="nearest and farthest depth, stored as 0 and 255 (16UC1 in millimeters, 32FC1 in meters)",
    )
    encodings: dict[str, Encoding] = Field(
        default={},
        description=(
            "camera -> encoding that it really sends, in place of the word in its messages, such as {color: bgr8} for 8UC3, "
            "or for JPEGs whose red and blue are swapped"
        ),
    )
    mono16_range: dict[str, list[Annotated[int, Field(ge=MONO16[0], le=MONO16[1])]]] = Field(
        default={},
        description=(
            "camera -> [low, high] of its gray of 16 bits (mono16, Bayer), stored as 0 and 255, such as {thermal: "
            "[0, 4095]}; a camera that is not named: [0, 65535]"
        ),
    )
    fps: int = Field(default=30, ge=1, le=1000, description="frames per second of the dataset")
    grid_delay_ms: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        default=None,
        description=(
            "delay of the first frame after the moment when every stream has published at least one message; null: such "
            "that images of the first camera whose rate is within 10 % of fps are half a period old on average, and its "
            "jitter moves none of them to another frame; 0: none"
        ),
    )
    resample: Resample = Field(
        default="auto",
        description=(
            "auto: in_order for cameras whose rate is within 10 % of fps, hold for all other streams; in_order: for "
            "cameras, each image once and in order, never from the future; hold: newest sample not after the frame, which "
            "is what a robot sees live; nearest: may look ahead; linear: numbers are interpolated, angles along the "
            "shortest arc, and images as with nearest"
        ),
    )
    resample_by_stream: dict[str, Resample] = Field(
        default={},
        description=(
            "resampling of single streams: joints, command, or the name of a camera or state field -> auto, in_order, "
            "hold, nearest, linear"
        ),
    )
    max_age_ms: float = Field(
        default=100.0, ge=0, le=60_000, description="hold, in_order: a frame whose sample is older than this is a gap"
    )
    max_offset_ms: float = Field(
        default=50.0,
        ge=0,
        le=60_000,
        description="nearest, linear: a frame whose samples are farther away than this is a gap",
    )
    max_age_ms_by_stream: dict[str, Annotated[float, Field(ge=0, le=60_000)]] = Field(
        default={},
        description="limit of single streams in place of max_age_ms or max_offset_ms: stream -> milliseconds; "
        "joints.NAME and command.NAME are those of one joint",
    )
    bad_messages: Literal["skip", "refuse"] = Field(
        default="skip",
        description=(
            "skip: an image that does not decode, or a message whose numbers are missing or not finite, is left out and "
            "counted; more than 5 % of a stream's messages refuse the bag; refuse: one that a frame needs refuses the bag"
        ),
    )
    time_source: TimeSource = Field(
        default="auto",
        description="clock of every stream; auto: the header stamp where it is plausible, else the receive time",
    )
    time_source_by_stream: dict[str, TimeSource] = Field(
        default={}, description="clock of single streams: stream -> auto, header, receive"
    )
    on_gap: Literal["split", "drop", "fail"] = Field(
        default="split",
        description=(
            "split: a gap ends the episode and the next one starts after it; drop: only the longest segment of the bag "
            "is kept; fail: the bag is refused"
        ),
    )
    min_episode_s: float = Field(default=0.5, ge=0, le=3600, description="shorter segments between gaps are left out")
    max_episode_s: float = Field(
        default=1800.0,
        ge=1,
        le=1800,
        description="longer segments are split here: float32 timestamps and row groups of 2 GiB allow no more",
    )
    trim_idle_s: float = Field(
        default=0.0,
        ge=0,
        description="when the arm rests longer than this at the start or end, only this much of the rest is kept; 0: all of it",
    )
    split_topic: str | None = Field(
        default=None, description="a message of any type on this topic starts a new episode"
    )
    split_pause_s: float = Field(
        default=0.0,
        ge=0,
        description="an arm that rests at least this long ends the episode, and the pause is left out; 0: never",
    )
    include: list[str] = Field(
        default=[], description="only bags whose name matches one of these patterns, such as kitchen/*; []: all"
    )
    exclude: list[str] = Field(default=[], description="no bags whose name matches one of these patterns")
    episodes: dict[str, list[int]] = Field(
        default={},
        description="only these episodes of these bags, counted from 0 within the bag, such as {kitchen/7: [0, 2]}",
    )
    ros_distro: Literal["dashing", "eloquent", "foxy", "galactic", "humble", "iron", "jazzy", "kilted", "lyrical"] = (
        Field(default="humble", description="message definitions for bags that carry none")
    )
    msg_paths: list[str] = Field(
        default=[],
        description=(
            "ROS packages, or folders with .msg files at any depth: definitions of message types that neither the bags nor "
            "ros_distro have"
        ),
    )
    robot_type: str = Field(default="ur10e", description="robot_type in the dataset's info.json")
    license: str | None = Field(
        default=None, description="license on the dataset's card, as the Hugging Face hub names it, such as apache-2.0"
    )
    task: str = Field(
        default="Move the arm as demonstrated.", description="description of what the demonstrations show"
    )
    task_from: Literal["config", "bag", "folder"] = Field(
        default="config",
        description=(
            "source of a bag's task: data.task, the custom data `task` in its metadata.yaml, or its name by "
            "task_pattern; data.task is used where the other two give none"
        ),
    )
    task_pattern: str | None = Field(
        default=None,
        description="regular expression for the bag's name with one group, the task, such as (.+?)/.*; _ becomes a space",
    )
    success_key: str = Field(
        default="success",
        description="custom data in metadata.yaml that tells whether a demonstration succeeded; stored in conversion.json",
    )
    storage: Literal["jpeg", "png", "video"] = Field(
        default="jpeg",
        description="images as JPEG (copied unchanged where possible), PNG, or one H.264 video per episode and camera",
    )
    sync_columns: bool = Field(
        default=False, description="add columns sync.<stream>_age_ms: the age of each frame's samples"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse streams that cannot become columns and settings for streams that do not exist."""
        if not self.cameras:
            raise ValueError("data.cameras={}: expected at least one camera, such as {color: /camera/color/image_raw}")
        self._check_names()
        topics = [self.joint_topic, *self.cameras.values()]
        if len(set(topics)) != len(topics):
            raise ValueError(f"data.cameras: expected a topic of its own for every stream, got {', '.join(topics)}")
        if "position" not in self.joint_fields or len(set(self.joint_fields)) != len(self.joint_fields):
            raise ValueError(f"data.joint_fields={self.joint_fields}: expected position, and each field once")
        near, far = self.depth_range_m if len(self.depth_range_m) == 2 else (0.0, 0.0)
        if near >= far:
            raise ValueError(f"data.depth_range_m={self.depth_range_m}: expected [nearest, farthest] in meters")
        self._check_encodings()
        if self.min_episode_s > self.max_episode_s:
            raise ValueError(f"data.min_episode_s={self.min_episode_s:g} is longer than data.max_episode_s")
        self._check_streams()
        self._check_episodes()
        self._check_task()
        return self

    @property
    def streams(self) -> tuple[str, ...]:
        """Return the names of all streams that a bag may have."""
        return (JOINTS, *self.cameras, *self.state_fields, *self.action_paths, COMMAND)

    def _check_names(self) -> None:
        taken: dict[str, str] = {}
        named = {"cameras": self.cameras, "state_fields": self.state_fields, "action_paths": self.action_paths}
        for key, sources in named.items():
            for name, source in sources.items():
                if not re.fullmatch(r"\w+", name, re.ASCII) or name in (JOINTS, COMMAND):
                    raise ValueError(
                        f"data.{key}.{name}: expected a name of letters, digits and _, other than {JOINTS!r} "
                        f"and {COMMAND!r}"
                    )
                if name in taken:
                    owner = "a camera" if taken[name] == "cameras" else "a state field"
                    raise ValueError(f"data.{key}.{name}: {owner} has this name; expected another one")
                if key != "cameras" and not FIELD_PATH.fullmatch(source):
                    raise ValueError(f"data.{key}.{name}={source}: expected TOPIC:path, such as /gripper/state:data")
                taken[name] = key

    def _check_encodings(self) -> None:
        for key, names in (("encodings", self.encodings), ("mono16_range", self.mono16_range)):
            for name in names:
                if name not in self.cameras:
                    raise ValueError(f"data.{key}.{name}: no such camera; there are {', '.join(self.cameras)}")
        for name, ends in self.mono16_range.items():
            if len(ends) != 2 or ends[0] >= ends[1]:
                raise ValueError(f"data.mono16_range.{name}={ends}: expected [low, high], such as [0, 4095]")

    def _check_streams(self) -> None:
        by_stream: dict[str, Mapping[str, Any]] = {
            "resample_by_stream": self.resample_by_stream,
            "max_age_ms_by_stream": self.max_age_ms_by_stream,
            "time_source_by_stream": self.time_source_by_stream,
        }
        for key, values in by_stream.items():
            for name in values:
                is_joint = key == "max_age_ms_by_stream" and name.startswith((f"{JOINTS}.", f"{COMMAND}."))
                if name not in self.streams and not is_joint:
                    raise ValueError(f"data.{key}.{name}: no such stream; there are {', '.join(self.streams)}")
        for name, rule in self.resample_by_stream.items():
            if name in self.cameras and rule == "linear":
                raise ValueError(
                    f"data.resample_by_stream.{name}=linear: expected auto, in_order, hold or nearest for images"
                )
            if name not in self.cameras and rule == "in_order":
                raise ValueError(
                    f"data.resample_by_stream.{name}=in_order: expected auto, hold, nearest or linear for numbers"
                )

        for name in self.initial_values:
            if name not in self.state_fields:
                known = ", ".join(self.state_fields) or "none"
                raise ValueError(f"data.initial_values.{name}: no name of data.state_fields; they are {known}")
            if self.resample_by_stream.get(name, self.resample) == "linear":
                raise ValueError(
                    f"data.initial_values.{name}: expected data.resample_by_stream.{name}=hold, not linear"
                )

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


class ConventionsConfig(Section):
    """What the numbers and images in the dataset mean."""

    joint_order: list[str] = Field(
        default=UR_JOINTS, description="joints of the state and the action, selected by name in every message"
    )
    apply_joint_sign: bool = Field(default=False, description="multiply the joint angles by joint_sign")
    joint_sign: list[float] = Field(
        default=[1.0, -1.0, -1.0, 1.0, 1.0, 1.0], description="+1 or -1 for each joint of joint_order"
    )
    wrap_angles: bool = Field(default=False, description="wrap the joint angles of the state to (-pi, pi]")
    action: Literal["delta", "next_position", "command"] = Field(
        default="delta",
        description=(
            "delta: action[t] is state[t+1] - state[t], angles along the shortest arc; next_position: state[t+1]; "
            "command: the value that data.command_topic requested, or data.action_paths alone"
        ),
    )
    action_fields: list[str] = Field(
        default=[], description="names of data.state_fields that are part of the action, too"
    )
    image_resize: list[Annotated[int, Field(ge=8, le=4096)]] | None = Field(
        default=None, description="[height, width] of the stored images; null: as recorded"
    )
    jpeg_quality: int = Field(default=95, ge=1, le=100, description="quality of images that are not JPEG already")

    @model_validator(mode="after")
    def _check(self) -> Self:
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
        return self


class Config(Section):
    """The whole configuration of stage 1."""

    data: DataConfig = DataConfig()
    conventions: ConventionsConfig = ConventionsConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse actions that nothing gives and state dimensions that share a name."""
        data, joints = self.data, self.conventions.joint_order
        if self.conventions.action == "command" and data.command_topic is None and not data.action_paths:
            raise ValueError(
                "conventions.action=command: expected data.command_topic, the topic of the commands, or data.action_paths"
            )
        for name in self.conventions.action_fields:
            if name not in self.data.state_fields:
                known = ", ".join(self.data.state_fields) or "none"
                raise ValueError(f"conventions.action_fields: {name} is no name of data.state_fields; they are {known}")
        if data.action_paths and self.conventions.action == "delta":
            raise ValueError(
                "data.action_paths with conventions.action=delta: numbers as they were published are no steps; expected "
                "conventions.action=command or next_position, or data.state_fields with conventions.action_fields"
            )
        for key, fields in (("state_fields", data.state_fields), ("action_paths", data.action_paths)):
            for name in fields:
                if name in joints:
                    raise ValueError(f"data.{key}.{name}: a joint has this name; expected another one")
        for name, joint in data.command_joints.items():
            if joint not in joints or list(data.command_joints.values()).count(joint) > 1:
                raise ValueError(
                    f"data.command_joints.{name}={joint}: expected a joint of joint_order, each once; they are "
                    f"{', '.join(joints)}"
                )
        for name in data.max_age_ms_by_stream:
            if name not in data.streams and name.partition(".")[2] not in joints:
                raise ValueError(f"data.max_age_ms_by_stream.{name}: no such joint; there are {', '.join(joints)}")
        return self

    @property
    def streams(self) -> tuple[str, ...]:
        """Return the names of the streams that are read: joints, cameras, fields, commands of joints if they are used."""
        return self.data.streams if self.has_commands else self.data.streams[:-1]

    @property
    def has_commands(self) -> bool:
        """Return whether actions of the joints are what data.command_topic requested."""
        return self.conventions.action == "command" and self.data.command_topic is not None

    @property
    def state_names(self) -> tuple[str, ...]:
        """Return the names of the state's dimensions, in order."""
        fields = [(field, joint) for field in self.data.joint_fields for joint in self.conventions.joint_order]
        joints = (joint if field == "position" else f"{joint}.{field}" for field, joint in fields)
        return (*joints, *self.data.state_fields)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Return the names of the action's dimensions, in order."""
        joints = self.conventions.joint_order if self.conventions.action != "command" or self.has_commands else ()
        return (*joints, *self.conventions.action_fields, *self.data.action_paths)
