"""Converts a bag into a LeRobot-like dataset file by way of PNG files: the side that `bench.convert` compares with.

It does what recorders built on LeRobot's writer do for every image: decode it, write it as a PNG file (zlib level 6), read
a sample of the files for the statistics, read all of them again and embed them into parquet.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rosbags.highlevel import AnyReader

from bench.bags import JOINT_TOPIC, RAW_TOPIC
from common.lerobot.images import decode_image


def convert_with_png_files(bag: Path, folder: Path) -> int:
    """Convert the JPEG images and joint states of `bag` into `folder`/file-000.parquet; returns the frames."""
    folder.mkdir(parents=True)
    joints, count = np.zeros(6, np.float32), 0
    states = []
    with AnyReader([bag]) as reader:
        wanted = [c for c in reader.connections if c.topic in (JOINT_TOPIC, f"{RAW_TOPIC}/compressed")]
        for connection, _, data in reader.messages(wanted):
            message: Any = reader.deserialize(data, connection.msgtype)
            if connection.topic == JOINT_TOPIC:
                joints = message.position.astype(np.float32)
                continue
            Image.fromarray(decode_image(message.data.tobytes())).save(_file(folder, count), compress_level=6)
            states.append(joints)
            count += 1
    sample = np.linspace(0, count - 1, min(count, max(100, round(count**0.75)))).astype(int)
    pixels = np.stack([np.asarray(Image.open(_file(folder, i)))[::4, ::4] for i in sample]).reshape(-1, 3)
    np.quantile(pixels, [0.01, 0.1, 0.5, 0.9, 0.99], axis=0), pixels.mean(axis=0), pixels.std(axis=0)
    images = [{"bytes": _file(folder, i).read_bytes(), "path": _file(folder, i).name} for i in range(count)]
    columns = {"observation.images.color": images, "observation.state": [state.tolist() for state in states]}
    pq.write_table(pa.table(columns), folder / "file-000.parquet")
    return count


def _file(folder: Path, number: int) -> Path:
    return folder / f"frame-{number:06d}.png"
