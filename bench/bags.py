"""Writes a bag as a robot cell would record it: joint states at 500 Hz and images at 30 Hz that resemble a scene.

A few images alternate, so that writing costs next to nothing; reading and decoding them costs the same as for real images.
"""

import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

Image = npt.NDArray[np.uint8]

TYPES = get_typestore(Stores.ROS2_HUMBLE)
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
JOINT_TOPIC, RAW_TOPIC = "/joint_states", "/camera/color/image_raw"
JOINT_HZ, CAMERA_HZ = 500, 30
START_NS = 1_700_000_000_000_000_000
DISTINCT, HEIGHT, WIDTH = 16, 480, 640


@functools.cache
def images() -> tuple[Image, ...]:
    """Return RGB images (height, width, 3) with gradients, edges, texture and camera noise."""
    rng = np.random.default_rng(0)
    return tuple(_image(rng, phase) for phase in range(DISTINCT))


@functools.cache
def jpegs(quality: int = 95) -> tuple[bytes, ...]:
    """Return the same images as JPEG files."""
    return tuple(encode(image, quality) for image in images())


def encode(image: Image, quality: int = 95) -> bytes:
    """Return an RGB image as a JPEG file."""
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def write_bag(path: Path, frames: int, raw: bool = False) -> Path:
    """Write an mcap bag of `frames` images, raw or JPEG, with the joint states of the same period; returns `path`."""
    topic = RAW_TOPIC if raw else f"{RAW_TOPIC}/compressed"
    kind = "sensor_msgs/msg/Image" if raw else "sensor_msgs/msg/CompressedImage"
    bodies = map(_raw, images()) if raw else map(_jpeg, jpegs())
    image_messages = [_message(kind, body) for body in bodies]
    joints = _message("sensor_msgs/msg/JointState", _joints())
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        camera = writer.add_connection(topic, kind, typestore=TYPES)
        arm = writer.add_connection(JOINT_TOPIC, "sensor_msgs/msg/JointState", typestore=TYPES)
        joint_count = 0
        for frame in range(frames):
            stamp_ns = START_NS + frame * 10**9 // CAMERA_HZ
            while joint_count * 10**9 // JOINT_HZ <= (frame + 1) * 10**9 // CAMERA_HZ:
                joint_ns = START_NS + joint_count * 10**9 // JOINT_HZ
                writer.write(arm, joint_ns, _stamped(joints, joint_ns))
                joint_count += 1
            writer.write(camera, stamp_ns + 5_000_000, _stamped(image_messages[frame % DISTINCT], stamp_ns))
    return path


def _image(rng: np.random.Generator, phase: int) -> Image:
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    waves = [np.sin(x / 97 + phase) * 80, np.cos((x + y) / 130 + phase) * 70, np.sin(y / 77 - phase) * 90]
    noise = rng.normal(0, 1, (HEIGHT, WIDTH, 3)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), 2) * 40
    image = np.clip(np.stack(waves, axis=-1) + 120 + texture + noise * 3, 0, 255).astype(np.uint8)
    for left, top in zip(rng.integers(0, WIDTH, 12), rng.integers(0, HEIGHT, 12), strict=True):
        color = rng.integers(0, 255, 3).tolist()
        cv2.rectangle(image, (int(left), int(top)), (int(left) + 60, int(top) + 50), color, -1)
    return np.asarray(image)


def _message(kind: str, body: dict[str, Any]) -> bytes:
    header = TYPES.types["std_msgs/msg/Header"](TYPES.types["builtin_interfaces/msg/Time"](0, 0), "base")
    return bytes(TYPES.serialize_cdr(TYPES.types[kind](header=header, **body), kind))


def _stamped(message: bytes, stamp_ns: int) -> bytes:
    """Replace the header stamp, the eight bytes after the four of the encapsulation: serializing again is far slower."""
    return message[:4] + np.array([stamp_ns // 10**9, stamp_ns % 10**9], "<u4").tobytes() + message[12:]


def _jpeg(data: bytes) -> dict[str, Any]:
    return {"format": "jpeg", "data": np.frombuffer(data, np.uint8)}


def _raw(image: Image) -> dict[str, Any]:
    size = {"height": HEIGHT, "width": WIDTH, "step": WIDTH * 3}
    return {**size, "encoding": "rgb8", "is_bigendian": 0, "data": image.reshape(-1)}


def _joints() -> dict[str, Any]:
    angles = np.linspace(-1, 1, len(JOINTS))
    return {"name": [f"{joint}_joint" for joint in JOINTS], "position": angles, "velocity": angles, "effort": angles}
