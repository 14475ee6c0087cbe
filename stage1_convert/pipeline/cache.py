"""Converted bags in a folder beside the dataset, each named by a key of what made it, so that none is converted twice.

A converted bag holds its episodes under any offset, as a rule the one they will have: `record.json`, and of each its rows,
the messages its frames show, and its videos. A finished dataset contains all of its converted bags, and gives them back
as hard links: nothing is stored twice.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from common.cli.command import UserError, one_line
from common.lerobot.metadata import DATA_PATH, IMAGES, VIDEO_PATH, data_file
from common.storage.disk import DiskFullError, full_disk_named
from common.storage.files import locked, read_json, remove_folder, remove_stale, sync, temporary_path
from stage1_convert.bags.message_files import read_message_files
from stage1_convert.config import Config
from stage1_convert.dataset.record import SYNC_PATH, BagEntry, write_record
from stage1_convert.dataset.stats import Stats
from stage1_convert.dataset.writer import EpisodeFiles, link, read_image_stats

# Increase it with every change of the code that changes a byte of a converted bag: those of the version before are then
# converted again. tests/stage1_convert/pipeline/test_conversion_version.py notices such a change.
CONVERSION_VERSION = 4
RECORD = "record.json"
# Settings that are applied when the dataset is assembled, and shape no converted bag.
ASSEMBLY_SETTINGS = (
    "task",
    "task_from",
    "task_pattern",
    "success_key",
    "robot_type",
    "license",
    "include",
    "exclude",
    "episodes",
)


class ConvertedBag(BaseModel):
    """record.json of a converted bag: its entry in the dataset's record, and its episodes' image statistics by camera."""

    model_config = ConfigDict(extra="forbid")

    entry: BagEntry
    image_stats: list[dict[str, Stats]]

    def files(self, folder: Path, number: int) -> EpisodeFiles:
        """Return the files of the `number`-th episode."""
        return episode_files(folder, number, list(self.entry.sizes), self.image_stats[number])


def versions() -> dict[str, str]:
    """Return the versions of all that shapes the bytes of a converted bag: our own, and the libraries'."""
    libraries = {"numpy": np.__version__, "opencv": cv2.__version__, "pyarrow": pa.__version__, "av": av.__version__}
    return {"conversion": str(CONVERSION_VERSION), "rosbags": version("rosbags"), **libraries}


def key_of(bag: str, sums: Mapping[str, str], config: Config, trust_images: bool) -> str:
    """Return the key of a converted bag; `sums` maps its files to their sha256.

    The bag's name only decides which of its episodes are wanted.
    """
    settings = config.model_dump(mode="json")
    for name in ASSEMBLY_SETTINGS:
        del settings["data"][name]
    del settings["data"]["msg_paths"]  # what the files say counts, not where they are
    made_of: dict[str, Any] = {"versions": versions(), "files": dict(sums)}
    made_of |= {"settings": settings, "trust_images": trust_images}
    if config.data.msg_paths:
        made_of["msg_files"] = read_message_files(tuple(config.data.msg_paths))
    if bag in config.data.episodes:
        made_of["episodes"] = sorted(set(config.data.episodes[bag]))
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def cache_path(out: Path) -> Path:
    """Return the folder of the converted bags of the dataset `out`."""
    return out.with_name(f".{out.name}.parts")


@contextlib.contextmanager
def locked_cache(out: Path) -> Iterator[Path]:
    """Yield the folder of converted bags of the dataset `out`, locked; it vanishes when the block ends well or when empty.

    Raises UserError when another process converts to `out`, and DiskFullError, which names converted bags that are kept.
    """
    folder = cache_path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made: {one_line(error)}; choose another --out") from error
    remove_stale(folder.parent)
    refusal = f"another conversion to --out {out} is running; wait for it or choose another --out"
    with full_disk_named(out), locked(folder, refusal):
        for part in (folder, *folder.iterdir()):
            remove_stale(part)
        try:
            yield folder
        except BaseException as error:
            for unfinished in (*folder.glob(".tmp-*"), *folder.glob("*/.tmp-*")):  # of processes that were stopped
                if unfinished.is_dir():
                    shutil.rmtree(unfinished, ignore_errors=True)
                else:
                    unfinished.unlink(missing_ok=True)
            if not any(folder.glob(f"*/{RECORD}")):
                remove_folder(folder)
            elif isinstance(error, DiskFullError):
                raise DiskFullError(f"{error}; finished bags are kept in {folder} for the next run") from error
            raise
        remove_folder(folder)


@contextlib.contextmanager
def new_converted_bag(cache: Path, key: str) -> Iterator[Path]:
    """Yield a temporary folder that becomes the converted bag `key`, complete, when the block ends well."""
    temporary = temporary_path(cache / key)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        with contextlib.suppress(OSError) if (cache / key).exists() else contextlib.nullcontext():
            temporary.rename(cache / key)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_converted(folder: Path, bag: ConvertedBag) -> None:
    """Write the record of a converted bag whose episodes' files are in `folder` already."""
    write_record(folder / RECORD, bag)


def read_converted(folder: Path) -> ConvertedBag:
    """Return the converted bag in `folder`."""
    return ConvertedBag.model_validate(read_json(folder / RECORD))


def episode_files(folder: Path, number: int, cameras: Sequence[str], image_stats: dict[str, Stats]) -> EpisodeFiles:
    """Return the files of the `number`-th episode of the converted bag in `folder`."""
    videos = {camera: folder / f"{number:03d}.{camera}.mp4" for camera in cameras}
    return EpisodeFiles(
        folder / f"{number:03d}.parquet",
        folder / f"{number:03d}.sync.parquet",
        {camera: path for camera, path in videos.items() if path.exists()},
        image_stats,
    )


def reuse(dataset: Path, bags: Sequence[BagEntry], cache: Path) -> None:
    """Give the converted bags of a finished dataset back to the cache; `bags` are the entries of its record.

    A bag with an episode whose files are not as the record says is left alone, and is converted again.
    """
    image_stats: list[dict[str, Stats]] = []
    for bag in bags:
        if bag.is_converted and bag.key and not (cache / bag.key).exists():
            damage = (OSError, KeyError, IndexError, ValidationError, pa.ArrowException)
            with contextlib.suppress(*damage), new_converted_bag(cache, bag.key) as folder:
                image_stats = image_stats or read_image_stats(dataset, list(bag.sizes))
                _take_back(dataset, folder, bag, image_stats)


def _take_back(dataset: Path, folder: Path, bag: BagEntry, image_stats: Sequence[dict[str, Stats]]) -> None:
    for number, episode in enumerate(bag.episodes):
        chunk, file = data_file(episode.episode_index)
        place = {"chunk_index": chunk, "file_index": file}
        files = episode_files(folder, number, [], {})
        rows = dataset / DATA_PATH.format(**place)
        if pq.read_metadata(rows).num_rows != episode.frames:
            raise KeyError(f"{rows} was changed")
        link(rows, files.rows)
        link(dataset / SYNC_PATH.format(**place), files.sync)
        for camera in bag.sizes:
            video = dataset / VIDEO_PATH.format(video_key=IMAGES + camera, **place)
            if video.exists():
                link(video, folder / f"{number:03d}.{camera}.mp4")
    wanted = [image_stats[episode.episode_index] for episode in bag.episodes]
    write_converted(folder, ConvertedBag(entry=bag, image_stats=wanted))
