"""The settings of what is read from a bag and how it is aligned."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.cli.config import Section
from stage1_convert.config.data_checks import check_encodings, check_episodes, check_names, check_streams, check_task
from stage1_convert.config.names import COMMAND, JOINTS, MONO16, Encoding, JointField, Resample, TimeSource


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
        check_names(self)
        topics = [self.joint_topic, *self.cameras.values()]
        if len(set(topics)) != len(topics):
            raise ValueError(f"data.cameras: expected a topic of its own for every stream, got {', '.join(topics)}")
        if "position" not in self.joint_fields or len(set(self.joint_fields)) != len(self.joint_fields):
            raise ValueError(f"data.joint_fields={self.joint_fields}: expected position, and each field once")
        near, far = self.depth_range_m if len(self.depth_range_m) == 2 else (0.0, 0.0)
        if near >= far:
            raise ValueError(f"data.depth_range_m={self.depth_range_m}: expected [nearest, farthest] in meters")
        check_encodings(self)
        if self.min_episode_s > self.max_episode_s:
            raise ValueError(f"data.min_episode_s={self.min_episode_s:g} is longer than data.max_episode_s")
        check_streams(self)
        check_episodes(self)
        check_task(self)
        return self

    @property
    def paths(self) -> dict[str, str]:
        """Return TOPIC:path of every number that is read by its path, by name."""
        return {**self.state_fields, **self.action_paths}

    @property
    def streams(self) -> tuple[str, ...]:
        """Return the names of all streams that a bag may have."""
        return (JOINTS, *self.cameras, *self.state_fields, *self.action_paths, COMMAND)
