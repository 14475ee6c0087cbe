"""A cache of a dataset's images by row, filled once and shared by every process of the machine.

`<cache>/frames/<key>/<camera>.u8` is a memory map of decoded images. The key is a hash of the dataset's fingerprint, the
cameras, the renamed features and the version of the cache.
"""

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from common.cli.command import UserError, progress
from common.lerobot.dataset import Dataset
from common.lerobot.frames import DecodedFrames, Frames, MappedFrames
from common.lerobot.metadata import Episode
from common.storage.disk import require_free
from common.storage.files import exclusive_lock, new_folder, read_json, remove_folder, remove_stale, write_json

CACHE_VERSION = 6  # part of the key: a cache that other code wrote is never misread
MAPS, ABOUT = "frames", "about.json"
log = logging.getLogger(__name__)


def cache_bytes(dataset: Dataset) -> int:
    """Return the size of the decoded images of all cameras."""
    return dataset.n_frames * sum(height * width * channels for height, width, channels in dataset.cameras.values())


def open_frames(dataset: Dataset, cache_dir: Path, mode: Literal["auto", "mmap", "none"] = "auto") -> dict[str, Frames]:
    """Return the images of every camera by its name: from memory maps, or decoded at every use.

    They are decoded at every use with mode "none", and with "auto" where the disk lacks room for the maps. The first process
    fills the cache, and others wait for it. Raises UserError when the disk lacks room (mode "mmap") or an image is damaged.
    """
    folder = cache_dir / MAPS / _key(dataset)
    if mode == "none" or not dataset.cameras or not _fill(folder, dataset, mode):
        return {name: DecodedFrames(dataset, name) for name in dataset.cameras}
    return {
        name: MappedFrames(folder / f"{name}.u8", dataset.n_frames, shape) for name, shape in dataset.cameras.items()
    }


def list_cache(cache_dir: Path) -> list[str]:
    """Return a line for each folder of the cache: its size, its path and its dataset."""
    return [
        f"{_folder_bytes(folder) / 1e9:8.2f} GB  {folder}  {read_json(folder / ABOUT)['dataset']}"
        for folder in _complete(cache_dir)
    ]


def clear_cache(cache_dir: Path) -> None:
    """Remove what `list_cache` lists, and what killed trainings left.

    A training that has mapped a folder continues, and the space is freed when it ends; one that is being filled stays.
    """
    remove_stale(cache_dir / MAPS)
    for folder in _complete(cache_dir):
        remove_folder(folder)


def _complete(cache_dir: Path) -> list[Path]:
    """Return the folders that have their final names."""
    return sorted((cache_dir / MAPS).glob("[!.]*/"))


def _key(dataset: Dataset) -> str:
    parts = [CACHE_VERSION, dataset.fingerprint, dataset.cameras, dataset.rename]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _fill(folder: Path, dataset: Dataset, mode: str) -> bool:
    """Create the folder with a map for each camera, unless it exists; returns whether it now does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder.with_suffix(".lock"), "caches the same images"):
        if folder.is_dir():
            return True
        if not _has_room(dataset, folder, mode):
            return False
        log.info("caching the images of %s in %s", dataset.root, folder)
        with new_folder(folder, manifest=False) as temporary:
            for camera in dataset.cameras:
                _write_map(dataset, camera, temporary)
            write_json(temporary / ABOUT, {"dataset": str(dataset.root.resolve()), "size": dataset.size})
    return True


def _has_room(dataset: Dataset, folder: Path, mode: str) -> bool:
    remove_stale(folder.parent)
    try:
        require_free(folder, cache_bytes(dataset), "the decoded images")
    except UserError as error:
        if mode == "mmap":
            raise
        log.warning(
            "%s, or set a smaller data.image_size; until then every image is read and decoded at every use, which is slow "
            "where row groups are large, as in an image dataset of LeRobot",
            error,
        )
        return False
    return True


def _write_map(dataset: Dataset, camera: str, folder: Path) -> None:
    path, shape = folder / f"{camera}.u8", (dataset.n_frames, *dataset.cameras[camera])
    log.info("decoding %d images of %s once (%.2f GB)", dataset.n_frames, camera, np.prod(shape) / 1e9)
    with path.open("wb") as file:
        # Reserve the blocks now: a sparse map on a full disk dies by SIGBUS instead of an error.
        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))
    frames = np.memmap(path, np.uint8, "r+", shape=shape)

    def fill(episode: Episode) -> None:
        for row, image in enumerate(dataset.images(episode, camera), episode.start):
            frames[row] = image

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoding releases the GIL
        done = pool.map(fill, dataset.episodes)
        for _ in progress(done, len(dataset.episodes), f"decoding {camera}", "episode"):
            pass
    frames.flush()


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
