"""Bags and settings in; a refusal before any work, where their images certainly find no room, out.

A few messages of each bag tell how large its images become. How many of them are shown only a whole reading could tell
(dry-run makes one), so that little is taken for sure: what would have fitted must not be refused.
"""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.cli.command import UserError
from common.lerobot.images import resize
from common.storage.files import free_bytes
from common.storage.worker import Limits, map_isolated
from stage1_convert.align.streams import find_topics
from stage1_convert.bags.bag import Bag, open_bag
from stage1_convert.bags.message_types import VIDEO_TYPES
from stage1_convert.config import Config
from stage1_convert.images.decode import CameraImage, read_image
from stage1_convert.images.encode import encode
from stage1_convert.pipeline.cache import RECORD, parts_path, recorded_bags
from stage1_convert.sources.source import BagInfo, Source

SAMPLED = 8  # images, from the beginning of a bag
SURE_SHARE = 0.25  # of a bag's frames: the others may lie in gaps
LIMITS = Limits(2 << 30, 60)  # for looking into one bag
UNPACKED = (".zstd", "-wal", "-journal")  # endings of files that are copied before they can be looked into


class _Bag(NamedTuple):
    source: Source
    size_bytes: int
    config: Config


def check_space(offers: Sequence[BagInfo], out: Path, config: Config, workers: int) -> None:
    """Raise UserError when the dataset `out` certainly does not fit on its disk.

    Nothing is certain of bags that are still to be downloaded or are converted already, or that become videos.
    """
    left_bytes = free_bytes(out)
    settings = config.data
    rests = settings.on_gap == "drop" or settings.trim_idle_s or settings.split_pause_s
    if rests or settings.storage == "video" or any(parts_path(out).glob(f"*/{RECORD}")):
        return
    done = {bag["bag"] for bag in recorded_bags(out)}
    bags = [_Bag(Source(o.name, o.path), o.size_bytes, config) for o in offers if o.path and o.name not in done]
    if sum(bag.size_bytes for bag in bags) <= left_bytes:
        return
    bags.sort(key=lambda bag: -bag.size_bytes)
    found = map(least_bytes, bags) if workers < 1 else map_isolated(least_bytes, bags, workers, lambda _: LIMITS)
    needed_bytes = 0
    for least in found:
        needed_bytes += least if isinstance(least, int) else 0
        if needed_bytes > left_bytes:
            raise UserError(
                f"disk too small: --out {out} needs at least {needed_bytes:,} bytes (a quarter of the bags' frames with "
                f"their smallest images), and {left_bytes:,} are free; free some space or choose another --out"
            )


def least_bytes(bag: _Bag) -> int:
    """Return how many bytes the images of a bag take at least; 0 where that is not known."""
    path, config = bag.source.path, bag.config
    if any(
        file.name.endswith(UNPACKED)
        for file in (path.iterdir() if path.is_dir() else path.parent.glob(path.name + "*"))
    ):
        return 0
    try:
        with tempfile.TemporaryDirectory() as scratch, open_bag(path, Path(scratch), config.data.ros_distro) as opened:
            topics = find_topics(opened, config)
            sizes = [_camera_bytes(opened, topics[camera], config) for camera in config.data.cameras]
    except UserError:
        return 0  # its conversion will say why
    return min(sum(sizes), bag.size_bytes)


def _camera_bytes(bag: Bag, topic: str, config: Config) -> int:
    if bag.topics[topic].type in VIDEO_TYPES:
        return 0
    records = list(itertools.islice(bag.records([topic]), SAMPLED))
    images = [read_image(bag.deserialize(topic, data), config.data.depth_range_m) for _, _, data in records]
    span_s = (records[-1].receive_ns - records[0].receive_ns) / 1e9 if records else 0
    if not span_s:
        return 0
    shown = min(1.0, config.data.fps * span_s / (len(records) - 1))  # of the images of a fast camera, only some
    least = min(_stored_bytes(image, config) for image in images)
    return int(bag.topics[topic].declared * shown * SURE_SHARE) * least


def _stored_bytes(image: CameraImage, config: Config) -> int:
    size = config.conventions.image_resize
    if image.file is not None and image.file_format == config.data.storage and size is None:
        return len(image.file)
    pixels = resize(image.rgb(), (size[0], size[1]) if size else (image.height, image.width))
    return len(encode(pixels, config.data.storage, config.conventions.jpeg_quality))
