"""The images of a dataset by row, as uint8 arrays, by default from a memory map into which they are decoded once.

There is one map per camera, `<cache>/frames/<key>/<camera>.u8`, shared by every process of the machine. The key is a hash of
the dataset's cache_key, the cameras, the renamed features and the version of the cache. A map of another length is built
again.
"""

import bisect
import hashlib
import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.cli.command import UserError, progress
from common.lerobot.dataset import Dataset
from common.lerobot.frames import Frames, MappedFrames, Rows, map_images
from common.lerobot.images import Image, decode_image, image_file
from common.lerobot.metadata import Episode, image_key
from common.storage.files import exclusive_lock, new_folder, read_json, remove_stale, require_free, write_json

CACHE_VERSION = 5  # part of the key: a cache that other code wrote is never misread
ABOUT = "about.json"
log = logging.getLogger(__name__)


class DecodedFrames:
    """Images that are decoded at every use from the encoded bytes, which `datasets` memory-maps, or from videos."""

    def __init__(self, dataset: Dataset, camera: str, cache_dir: Path) -> None:
        self.shape = dataset.cameras[camera]
        self._dataset, self._camera = dataset, camera
        is_video = dataset.features[image_key(camera)].dtype == "video"
        self._encoded = None if is_video else dataset.encoded_column(camera, cache_dir)
        self._starts = [episode.start for episode in dataset.episodes]

    def take(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Decode the images of `rows`; raises UserError naming episode and frame of a damaged one."""
        for i, row in enumerate(rows.tolist()):
            out[i] = self._image(row)

    def _image(self, row: int) -> Image:
        dataset, camera = self._dataset, self._camera
        episode = dataset.episodes[bisect.bisect_right(self._starts, row) - 1]
        frame = row - episode.start
        try:
            if self._encoded is not None:
                image = decode_image(image_file(dataset.root, self._encoded[row].as_py()))
            else:
                image = dataset.video_frame(episode, camera, frame)
            return dataset.resized(image, camera)
        except UserError as error:
            raise dataset.image_fault(episode, camera, frame, error) from error


def default_cache_dir() -> Path:
    """Return the folder of decoded images and columns: $XDG_CACHE_HOME/bag2act, or ~/.cache/bag2act."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bag2act"


def cache_bytes(dataset: Dataset) -> int:
    """Return the size of the decoded images of all cameras."""
    return dataset.n_frames * sum(height * width * channels for height, width, channels in dataset.cameras.values())


def open_frames(
    dataset: Dataset,
    cache_dir: Path,
    mode: Literal["auto", "mmap", "none"] = "auto",
    build: bool = True,
) -> dict[str, Frames]:
    """Return the images of every camera by its name: from memory maps, or decoded at every use.

    They are decoded at every use with mode "none", and with "auto" where the disk lacks room for the maps. The first process
    builds the maps, and others wait for it; with `build=False` they are used only if they exist. Raises UserError when the
    disk lacks room (mode "mmap") or an image is damaged.
    """
    folder = _folder(dataset, cache_dir)
    if dataset.cameras and mode != "none" and build:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder.with_suffix(".lock"), "decodes the same images"):
            if not _is_complete(dataset, folder) and _has_room(dataset, folder, mode):
                _build(dataset, folder)
    if mode == "none" or not _is_complete(dataset, folder):
        return {camera: DecodedFrames(dataset, camera, cache_dir) for camera in dataset.cameras}
    return {
        camera: MappedFrames(folder / f"{camera}.u8", dataset.n_frames, shape)
        for camera, shape in dataset.cameras.items()
    }


def list_cache(cache_dir: Path) -> list[str]:
    """Return a line for each part of the cache: maps of decoded images, and the columns that `datasets` copied."""
    lines = []
    for folder in sorted((cache_dir / "frames").glob("*/")):
        try:
            dataset = read_json(folder / ABOUT)["dataset"]
        except (UserError, KeyError, TypeError):
            dataset = "damaged"
        lines.append(f"{_folder_bytes(folder) / 1e9:8.2f} GB  {folder}  {dataset}")
    columns = cache_dir / "columns"
    if columns.is_dir():
        lines.append(f"{_folder_bytes(columns) / 1e9:8.2f} GB  {columns}  columns of all datasets")
    return lines


def clear_cache(cache_dir: Path) -> None:
    """Remove what `list_cache` lists; a training that has mapped it continues, and the space is freed when it ends."""
    for name in ("frames", "columns"):
        shutil.rmtree(cache_dir / name, ignore_errors=True)


def _folder(dataset: Dataset, cache_dir: Path) -> Path:
    parts = [CACHE_VERSION, dataset.cache_key, dataset.cameras, dataset.rename]
    return cache_dir / "frames" / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _is_complete(dataset: Dataset, folder: Path) -> bool:
    """Return whether the folder holds a map of the right length for every camera, and the file that is written last."""
    sizes = {
        folder / f"{camera}.u8": dataset.n_frames * int(np.prod(shape)) for camera, shape in dataset.cameras.items()
    }
    return (folder / ABOUT).is_file() and all(
        path.is_file() and path.stat().st_size == size_bytes for path, size_bytes in sizes.items()
    )


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


def _build(dataset: Dataset, folder: Path) -> None:
    if folder.exists():
        log.warning("%s is damaged and is built again", folder)
    log.info(
        "decoding %d images once into %s (%.2f GB)",
        *(dataset.n_frames * len(dataset.cameras), folder, cache_bytes(dataset) / 1e9),
    )
    with new_folder(folder, manifest=False) as temporary:
        for camera in dataset.cameras:
            _decode(dataset, camera, temporary / f"{camera}.u8")
        write_json(temporary / ABOUT, {"dataset": str(dataset.root.resolve()), "size": dataset.size})


def _decode(dataset: Dataset, camera: str, path: Path) -> None:
    shape = (dataset.n_frames, *dataset.cameras[camera])
    with path.open("wb") as file:
        # Reserve the blocks now: a sparse map on a full disk dies by SIGBUS instead of an error.
        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))
    frames = map_images(path, shape, "r+")

    def fill(episode: Episode) -> None:
        for row, image in enumerate(dataset.images(episode, camera), episode.start):
            frames[row] = image

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoding releases the GIL
        done = pool.map(fill, dataset.episodes)
        for _ in progress(done, len(dataset.episodes), f"decoding {camera}", "episode"):
            pass
    frames.flush()  # type: ignore[attr-defined]


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
