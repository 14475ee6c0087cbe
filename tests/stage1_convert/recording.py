"""Bags for tests, written with rosbags' own Writer: streams that a test can tamper with before they are written."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

Image = npt.NDArray[np.uint8]
Storage = Literal["mcap", "sqlite3"]
Compression = Literal["none", "file", "message", "storage"]

TYPES = get_typestore(Stores.ROS2_HUMBLE)
HEADER, TIME = TYPES.types["std_msgs/msg/Header"], TYPES.types["builtin_interfaces/msg/Time"]
JOINT_STATE, IMAGE, COMPRESSED = (f"sensor_msgs/msg/{name}" for name in ("JointState", "Image", "CompressedImage"))

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000
JOINTS = ["shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint"]
DRIVER_JOINTS = [*JOINTS[1:], JOINTS[0]]  # the order in which the UR driver publishes
JOINT_TOPIC, RAW_TOPIC = "/joint_states", "/camera/color/image_raw"
JPEG_TOPIC = f"{RAW_TOPIC}/compressed"
HEIGHT, WIDTH, BLOCK = 48, 64, 8


class RecordedMessage(NamedTuple):
    """A message as it goes into the bag."""

    receive_ns: int
    topic: str
    type: str
    message: Any


@dataclass
class Recording:
    """The messages of a bag to be, by stream, so that tests can drop, change and add some."""

    joints: list[RecordedMessage] = field(default_factory=list)
    images: list[RecordedMessage] = field(default_factory=list)
    others: list[RecordedMessage] = field(default_factory=list)

    def write(
        self,
        path: Path,
        storage: Storage = "mcap",
        compression: Compression = "none",
    ) -> Path:
        """Write the bag folder `path` and return it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        writer = Writer(path, version=9, storage_plugin=plugin)
        if compression != "none":
            writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
        with writer:
            connections: dict[str, Any] = {}
            for said in sorted([*self.joints, *self.images, *self.others], key=lambda said: said.receive_ns):
                if said.topic not in connections:
                    connections[said.topic] = writer.add_connection(said.topic, said.type, typestore=TYPES)
                data = TYPES.serialize_cdr(said.message, said.type)
                writer.write(connections[said.topic], said.receive_ns, data)
        return path


def stamp_of(said: RecordedMessage) -> int:
    """Return the header stamp of a message in nanoseconds."""
    stamp = said.message.header.stamp
    return int(stamp.sec * 10**9 + stamp.nanosec)


def with_joints(recording: Recording, first: int, stop: int, make: Callable[[RecordedMessage], Any]) -> Recording:
    """Replace the joint messages `first` to `stop` by make(the message)."""
    changed = [said._replace(message=make(said)) for said in recording.joints[first:stop]]
    recording.joints[first:stop] = changed
    return recording


def with_images(recording: Recording, numbers: Iterable[int], make: Callable[[int, bytes], bytes]) -> Recording:
    """Replace the files in these image messages by make(number, file)."""
    for number in numbers:
        said = recording.images[number]
        data = make(number, said.message.data.tobytes())
        recording.images[number] = said._replace(message=compressed_image(stamp_of(said), data))
    return recording


def with_image_messages(recording: Recording, make: Callable[[int, int], Any]) -> Recording:
    """Replace every image message by make(number, stamp in ns)."""
    made = [said._replace(message=make(number, stamp_of(said))) for number, said in enumerate(recording.images)]
    recording.images = made
    return recording


def header(stamp_ns: int) -> Any:
    """Return a std_msgs/Header with this stamp."""
    return HEADER(stamp=TIME(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="base")


def joint_state(stamp_ns: int, names: list[str], positions: npt.ArrayLike) -> Any:
    """Return a sensor_msgs/JointState."""
    nothing = np.zeros(0)
    values = np.asarray(positions, np.float64)
    return TYPES.types[JOINT_STATE](header(stamp_ns), list(names), values, nothing, nothing)


def raw_image(stamp_ns: int, image: Image, encoding: str = "rgb8", padding: int = 0) -> Any:
    """Return a sensor_msgs/Image whose rows have `padding` bytes of noise behind them."""
    rows = image.reshape(len(image), -1)
    noise = np.full((len(rows), padding), 0xA5, np.uint8)
    data = np.concatenate([rows, noise], axis=1)
    height, width = image.shape[:2]
    return TYPES.types[IMAGE](header(stamp_ns), height, width, encoding, 0, data.shape[1], data.ravel())


def compressed_image(stamp_ns: int, data: bytes, form: str = "jpeg") -> Any:
    """Return a sensor_msgs/CompressedImage that holds `data`."""
    return TYPES.types[COMPRESSED](header(stamp_ns), form, np.frombuffer(data, np.uint8))


def draw(number: int, height: int = HEIGHT, width: int = WIDTH) -> Image:
    """Return an RGB image that carries `number` in blocks along its top, on a colored slope."""
    rows, columns = np.mgrid[:height, :width]
    slope = [rows * 4 % 256, columns * 3 % 256, (rows + columns + number) * 2 % 256]
    image = np.stack(slope, axis=-1).astype(np.uint8)
    for bit in range(width // BLOCK):
        image[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 if number >> bit & 1 else 0
    return image


def number_in(image: Image) -> int:
    """Return the number that `draw` put into an image, also after JPEG."""
    blocks = range(image.shape[1] // BLOCK)
    return sum(1 << bit for bit in blocks if image[1:7, bit * BLOCK + 1 : bit * BLOCK + 7].mean() > 127)


def jpeg(image: Image, quality: int = 90) -> bytes:
    """Return an RGB image as a JPEG file."""
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[
        1
    ].tobytes()


def decode(data: bytes) -> Image:
    """Return the RGB image of a JPEG file."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), np.uint8)


def motion(time_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return smooth joint angles (times, 6) in radians."""
    angles: npt.NDArray[np.float64] = np.sin(time_s[:, None] * np.linspace(0.5, 1.5, 6) + np.arange(6))
    return angles


def cell(
    seconds: float = 1.5,
    seed: int = 0,
    joint_hz: int = 100,
    camera_hz: int = 30,
    topic: str = JPEG_TOPIC,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Recording:
    """Return what a robot cell says: joints in the driver's order and numbered images, both with jittery stamps."""
    rng = np.random.default_rng(seed)
    recording = Recording()
    joint_ns = np.arange(round(seconds * joint_hz)) * 10**9 // joint_hz + rng.integers(0, MS, round(seconds * joint_hz))
    angles = motion(joint_ns / 1e9)
    for offset_ns, row in zip(joint_ns, angles, strict=True):
        stamp_ns = START_NS + int(offset_ns)
        message = joint_state(stamp_ns, DRIVER_JOINTS, np.roll(row, -1))
        recording.joints.append(RecordedMessage(stamp_ns + int(rng.integers(MS)), JOINT_TOPIC, JOINT_STATE, message))
    for number in range(round(seconds * camera_hz)):
        stamp_ns = START_NS + number * 10**9 // camera_hz + int(rng.integers(0, 3 * MS))
        image = draw(number, *size)
        if topic.endswith("compressed"):
            said = (COMPRESSED, compressed_image(stamp_ns, jpeg(image)))
        else:
            said = (IMAGE, raw_image(stamp_ns, image))
        recording.images.append(RecordedMessage(stamp_ns + int(rng.integers(10 * MS, 20 * MS)), topic, *said))
    return recording
