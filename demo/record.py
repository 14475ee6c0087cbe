"""Records the simulated cell into rosbag2 bags, as a recorder on the ROS 2 network of a real cell would.

One bag per episode, in all four combinations of sqlite3 or mcap storage and JPEG or raw images. Next to the bags is
truth.json, with what no bag contains: targets, starts, lost frames. The folder appears when all of it is complete.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from common.cli.command import Parser, UserError, progress, run, whole_number
from common.storage.files import new_folder, read_json, require_ours, write_json
from common.storage.worker import Limits, map_isolated
from demo.arm import JOINT_NAMES, Array
from demo.expert import EPISODE_S, RECORDING_STREAM, Task, motion, picture, sample_task, task_rng
from demo.scene import CELLS, Image

Nanoseconds = npt.NDArray[np.int64]
Message = tuple[int, str, bytes]  # receive time in ns, topic, CDR

FORMAT_VERSION = 1
TRUTH = "truth.json"

JOINT_TOPIC, JOINT_TYPE = "/joint_states", "sensor_msgs/msg/JointState"
RAW_TOPIC, RAW_TYPE = "/camera/color/image_raw", "sensor_msgs/msg/Image"
JPEG_TOPIC, JPEG_TYPE = "/camera/color/image_raw/compressed", "sensor_msgs/msg/CompressedImage"
TYPES = {JOINT_TOPIC: JOINT_TYPE, RAW_TOPIC: RAW_TYPE, JPEG_TOPIC: JPEG_TYPE}
# Universal_Robots_ROS2_Driver publishes in this order, not in the order of the chain: readers must go by name.
DRIVER_ORDER = [1, 2, 3, 4, 5, 0]

EPOCH_NS = 1_700_000_000 * 10**9
PERIOD_NS = 10 * 10**9  # between the starts of consecutive episodes
JOINT_HZ, CAMERA_HZ = 500, 30
JPEG_QUALITY = 95
LOST_SHARE = 0.01
CAMERA_LATENCY_S = 20e-3  # from the moment that an image shows to its arrival
LIMITS = Limits(1 << 30, 600.0)


class Stamps(NamedTuple):
    """The header stamps of M messages and the times at which the recorder received them, (M,) int64 ns each."""

    header_ns: Nanoseconds
    receive_ns: Nanoseconds


class Episode(NamedTuple):
    """The random choices of one episode; they determine its bag."""

    name: str
    storage: StoragePlugin
    camera_topic: str
    start_ns: int
    task: Task
    joint_stamps: Stamps
    camera_stamps: Stamps
    lost_frames: list[int]


def plan_episode(seed: int, index: int, cell: str = "front") -> Episode:
    """Draw episode `index` of a recording; seed, index and cell determine it."""
    rng = task_rng(seed, RECORDING_STREAM, index)
    task = sample_task(rng, CELLS[cell])
    start_ns = EPOCH_NS + index * PERIOD_NS
    joints, (camera, lost_frames) = _joint_stamps(rng), _camera_stamps(rng)
    return Episode(
        name=f"episode_{index:04d}",
        storage=StoragePlugin.MCAP if index % 2 else StoragePlugin.SQLITE3,
        camera_topic=RAW_TOPIC if index // 2 % 2 else JPEG_TOPIC,
        start_ns=start_ns,
        task=task,
        joint_stamps=Stamps(*(start_ns + stamps for stamps in joints)),
        camera_stamps=Stamps(*(start_ns + stamps for stamps in camera)),
        lost_frames=lost_frames,
    )


def messages(episode: Episode) -> list[Message]:
    """Return all messages of an episode in the order in which they are received."""
    received = [*_joint_messages(episode), *_camera_messages(episode)]
    return sorted(received, key=lambda message: message[0])


def record(out: Path, episodes: int = 200, seed: int = 0, workers: int = 1, cell: str = "front") -> bool:
    """Record `episodes` bags into the folder `out`; return False when they were all there already.

    Raises UserError when `out` holds anything else.
    """
    out = out.resolve()
    recording = {"format_version": FORMAT_VERSION, "seed": seed, "episodes": episodes, "cell": cell}
    if (out / TRUTH).is_file():
        if not recording.items() <= read_json(out / TRUTH).items():
            wanted = f"seed {seed} with {episodes} episodes of the cell {cell}"
            raise UserError(f"{out} holds another recording than {wanted}; give another --out")
        if not is_complete(out):
            raise UserError(f"{out} lacks bags of its recording; remove it or give another --out")
        return False
    require_ours(out, "recording", names=())
    with new_folder(out, manifest=False) as folder:
        jobs, bags = [(folder, seed, index, cell) for index in range(episodes)], list[dict[str, Any]]()
        with contextlib.closing(map_isolated(_record_episode, jobs, workers, lambda _: LIMITS)) as results:
            for truth in progress(results, episodes, "recording", "bag"):
                if isinstance(truth, UserError):
                    raise truth
                bags.append(truth)
        write_json(folder / TRUTH, {**recording, "bags": bags})
    return True


def is_complete(folder: Path) -> bool:
    """Return whether all bags of the recording in a folder are there."""
    return all((folder / bag["bag"]).is_dir() for bag in read_json(folder / TRUTH)["bags"])


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and record."""
    parser = Parser(prog="python -m demo.record", description="Record the simulated cell into rosbag2 bags.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the bags: new or empty")
    parser.add_argument("--episodes", type=whole_number(1), default=200, help="number of bags (%(default)s)")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="determines every recorded byte (%(default)s)")
    parser.add_argument("--workers", type=whole_number(1), default=os.cpu_count() or 1, help="processes (%(default)s)")
    parser.add_argument("--cell", choices=CELLS, default="front", help="which simulated cell (%(default)s)")
    args = parser.parse_args(argv)
    if record(args.out, args.episodes, args.seed, args.workers, args.cell):
        print(f"recorded {args.episodes} bags in {args.out}")
    else:
        print(f"already recorded: {args.episodes} bags in {args.out}")
    return 0


def _joint_stamps(rng: np.random.Generator) -> Stamps:
    """Return stamps since the start: the steady clock of a controller, and a millisecond of network latency."""
    count = round(EPISODE_S * JOINT_HZ)
    header_s = np.arange(count) / JOINT_HZ + rng.normal(0.0, 20e-6, count).clip(-100e-6, 100e-6)
    return _stamps(header_s, rng.normal(1e-3, 0.1e-3, count).clip(0.6e-3, 1.4e-3))


def _camera_stamps(rng: np.random.Generator) -> tuple[Stamps, list[int]]:
    """Return stamps since the start without those of the lost frames, and the numbers of the lost frames.

    A camera is not synchronized: its first frame comes at any time, its clock jitters, and an image arrives
    CAMERA_LATENCY_S later. Never the first, the last or two consecutive frames are lost, so each loss is one gap of two
    periods.
    """
    count = round(EPISODE_S * CAMERA_HZ)
    jitter_s = rng.normal(0.0, 1.5e-3, count).clip(-5e-3, 5e-3)
    header_s = rng.uniform(5e-3, 25e-3) + np.arange(count) / CAMERA_HZ + jitter_s
    stamps = _stamps(header_s, rng.normal(CAMERA_LATENCY_S, 1e-3, count).clip(16e-3, 24e-3))
    lost = rng.random(count) < LOST_SHARE
    lost[1:] &= ~lost[:-1]
    lost[[0, -1]] = False
    return Stamps(stamps.header_ns[~lost], stamps.receive_ns[~lost]), np.flatnonzero(lost).tolist()


def _stamps(header_s: Array, latency_s: Array) -> Stamps:
    header_ns = np.rint(header_s * 1e9).astype(np.int64)
    return Stamps(header_ns, header_ns + np.rint(latency_s * 1e9).astype(np.int64))


def _joint_messages(episode: Episode) -> Iterator[Message]:
    header_ns, receive_ns = episode.joint_stamps
    positions, velocities = motion(episode.task, (header_ns - episode.start_ns) / 1e9)
    for index, received in enumerate(receive_ns.tolist()):
        body = {
            "name": [JOINT_NAMES[joint] for joint in DRIVER_ORDER],
            "position": positions[index, DRIVER_ORDER],
            "velocity": velocities[index, DRIVER_ORDER],
            "effort": np.zeros(6),
        }
        yield received, JOINT_TOPIC, _cdr(JOINT_TYPE, int(header_ns[index]), "base_link", body)


def _camera_messages(episode: Episode) -> Iterator[Message]:
    """Each image shows the arm at its header stamp, not at its receive time."""
    header_ns, receive_ns = episode.camera_stamps
    positions, _ = motion(episode.task, (header_ns - episode.start_ns) / 1e9)
    for index, received in enumerate(receive_ns.tolist()):
        image = picture(episode.task, positions[index])
        body = _raw_image(image) if episode.camera_topic == RAW_TOPIC else _jpeg_image(image)
        cdr = _cdr(TYPES[episode.camera_topic], int(header_ns[index]), "camera_color_optical_frame", body)
        yield received, episode.camera_topic, cdr


def _raw_image(image: Image) -> dict[str, Any]:
    height, width, channels = image.shape
    size = {"height": height, "width": width, "step": width * channels}
    return {**size, "encoding": "rgb8", "is_bigendian": 0, "data": image.reshape(-1)}


def _jpeg_image(image: Image) -> dict[str, Any]:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return {"format": "jpeg", "data": encoded.reshape(-1)}


@cache
def _typestore() -> Typestore:
    return get_typestore(Stores.ROS2_HUMBLE)


def _cdr(msgtype: str, stamp_ns: int, frame_id: str, body: dict[str, Any]) -> bytes:
    store = _typestore()
    sec, nanosec = divmod(stamp_ns, 10**9)
    stamp = store.types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
    header = store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)
    return bytes(store.serialize_cdr(store.types[msgtype](header=header, **body), msgtype))


def _record_episode(job: tuple[Path, int, int, str]) -> dict[str, Any]:
    """Write the bag of an episode, (folder, seed, index, cell), and return its part of truth.json."""
    folder, seed, index, cell = job
    episode = plan_episode(seed, index, cell)
    bag = folder / episode.name
    with Writer(bag, version=Writer.VERSION_LATEST, storage_plugin=episode.storage) as writer:
        topics = (JOINT_TOPIC, episode.camera_topic)
        connections = {t: writer.add_connection(t, TYPES[t], typestore=_typestore()) for t in topics}
        for receive_ns, topic, cdr in messages(episode):
            writer.write(connections[topic], receive_ns, cdr)
    return {
        "bag": episode.name,
        "storage": episode.storage.name.lower(),
        "camera_topic": episode.camera_topic,
        "target_xy_m": episode.task.target_xy_m.tolist(),
        "start_joints": dict(zip(JOINT_NAMES, episode.task.start.tolist(), strict=True)),
        "lost_frames": episode.lost_frames,
    }


if __name__ == "__main__":
    run(main)
