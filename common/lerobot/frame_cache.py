"""A cache of a dataset's images by row, filled once and shared by every process of the machine.

`<cache>/frames/<key>/<camera>.u8` is a memory map of decoded images, `<cache>/encoded/<key>/<camera>.arrow` holds them as they
are stored in the dataset. The key is a hash of the dataset's fingerprint, the cameras, the renamed features and the version of
the cache.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from common.cli.command import UserError, progress
from common.lerobot.dataset import Dataset
from common.lerobot.frames import DecodedFrames, Frames, MappedFrames
from common.lerobot.metadata import Episode, arrow_type, image_key
from common.storage.disk import require_free
from common.storage.files import exclusive_lock, new_folder, read_json, remove_stale, write_json

CACHE_VERSION = 6  # part of the key: a cache that other code wrote is never misread
MAPS, ENCODED = "frames", "encoded"
ABOUT = "about.json"
log = logging.getLogger(__name__)


def cache_bytes(dataset: Dataset) -> int:
    """Return the size of the decoded images of all cameras."""
    return dataset.n_frames * sum(height * width * channels for height, width, channels in dataset.cameras.values())


def open_frames(dataset: Dataset, cache_dir: Path, mode: Literal["auto", "mmap", "none"] = "auto") -> dict[str, Frames]:
    """Return the images of every camera by its name: from memory maps, or decoded at every use.

    They are decoded at every use with mode "none", and with "auto" where the disk lacks room for the maps. The first process
    fills the cache, and others wait for it. Raises UserError when the disk lacks room (mode "mmap") or an image is damaged.
    """
    stored = [name for name in dataset.cameras if dataset.features[image_key(name)].dtype == "image"]
    if not (stored if mode == "none" else dataset.cameras):  # nothing to cache: the folder may be read-only
        return {name: DecodedFrames(dataset, name, None) for name in dataset.cameras}
    key = _key(dataset)
    maps, encoded = cache_dir / MAPS / key, cache_dir / ENCODED / key
    maps.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(maps.with_suffix(".lock"), "caches the same images"):
        if mode != "none" and (maps.is_dir() or _has_room(dataset, maps, mode)):
            _fill(maps, dataset, dataset.cameras, _write_map)
            shapes = dataset.cameras.items()
            return {name: MappedFrames(maps / f"{name}.u8", dataset.n_frames, shape) for name, shape in shapes}
        _fill(encoded, dataset, stored, _write_cells)
    return {
        name: DecodedFrames(dataset, name, encoded / f"{name}.arrow" if name in stored else None)
        for name in dataset.cameras
    }


def list_cache(cache_dir: Path) -> list[str]:
    """Return a line for each folder of the cache: its size, its path and its dataset."""
    return [
        f"{_folder_bytes(folder) / 1e9:8.2f} GB  {folder}  {read_json(folder / ABOUT)['dataset']}"
        for kind in (MAPS, ENCODED)
        for folder in sorted((cache_dir / kind).glob("*/"))
    ]


def clear_cache(cache_dir: Path) -> None:
    """Remove what `list_cache` lists; a training that has mapped it continues, and the space is freed when it ends."""
    for kind in (MAPS, ENCODED):
        shutil.rmtree(cache_dir / kind, ignore_errors=True)


def _key(dataset: Dataset) -> str:
    parts = [CACHE_VERSION, dataset.fingerprint, dataset.cameras, dataset.rename]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _has_room(dataset: Dataset, folder: Path, mode: str) -> bool:
    remove_stale(folder.parent)
    try:
        require_free(folder, cache_bytes(dataset), "the decoded images")
    except UserError as error:
        if mode == "mmap":
            raise
        log.warning("%s; until then every image is decoded at every use", error)
        return False
    return True


def _fill(
    folder: Path, dataset: Dataset, cameras: Collection[str], write: Callable[[Dataset, str, Path], None]
) -> None:
    """Create the folder with a file for each camera, unless it exists or there is none."""
    if folder.is_dir() or not cameras:
        return
    log.info("caching the images of %s in %s", dataset.root, folder)
    with new_folder(folder, manifest=False) as temporary:
        for camera in cameras:
            write(dataset, camera, temporary)
        write_json(temporary / ABOUT, {"dataset": str(dataset.root.resolve()), "size": dataset.size})


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


def _write_cells(dataset: Dataset, camera: str, folder: Path) -> None:
    schema = pa.schema([("image", arrow_type(dataset.features[image_key(camera)]))])
    with pa.ipc.new_file(str(folder / f"{camera}.arrow"), schema) as file:
        for episode in progress(dataset.episodes, len(dataset.episodes), f"copying {camera}", "episode"):
            cells = list(dataset.image_cells(episode, camera))
            if len(cells) != episode.length:
                raise dataset.count_fault(episode, camera, len(cells))
            file.write(pa.record_batch([pa.array(cells, schema.field("image").type)], schema=schema))


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
