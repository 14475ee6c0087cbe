"""The names that settings are made of: streams, joints, rules and encodings."""

import re
from typing import Literal

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
JOINT_POSITION = re.compile(r"position(\.(?![xyz]$)\w+|\[[^\]]+\])", re.ASCII)  # x, y, z: those of a pose
FIELD_PATH = re.compile(r"(?P<topic>/?[^:\s]+):(?P<path>\w+(\.\w+)*(\[[^\]]+\])?)", re.ASCII)
