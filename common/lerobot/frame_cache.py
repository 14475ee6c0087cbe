"""All images of a dataset in; a source of uint8 images by row out, by default a memory map that is decoded once.

The map is one file a camera, `<cache>/frames/<key>/<camera>.u8`, shared by every process of the machine; the key is a hash
of the dataset's fingerprint and of the size its images are asked for in, so that no other ever finds it. A map that is not
as it was left is made anew: its length is looked at when it is opened, each image's sum when it is first used.
"""

import bisect
import hashlib
import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from common.cli.command import TransientError, UserError, one_line, progress
from common.lerobot.dataset import Dataset, Episode, image_key
from common.lerobot.images import Image, decode_image, decode_video
from common.storage.files import exclusive_lock, new_folder, read_json, remove_stale, require_free, write_json

CACHE_VERSION = 3  # part of the key: a cache written by other code is never misread
ABOUT = "about.json"
SUMS = ".sums"
Rows = npt.NDArray[np.int64]
log = logging.getLogger(__name__)


class Frames(Protocol):
    """The images of one camera, RGB (height, width, 3) uint8, by row of the dataset."""

    shape: tuple[int, int, int]

    def take(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Put the images of `rows` into `out`, (len(rows), height, width, 3)."""


class MappedFrames:
    """Images that lie decoded in a memory map; taking them is a copy, held against its sum if the map has sums beside it."""

    def __init__(self, path: Path, n_frames: int, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.map = _map(path, (n_frames, *shape), "r")
        self._path, sums = path, path.with_suffix(SUMS)
        self._sums = np.fromfile(sums, np.uint64) if sums.exists() else None
        self._is_new = np.full(n_frames, self._sums is not None)

    def take(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Copy the images of `rows`; "clip" because numpy would copy twice to be able to raise.

        Raises TransientError when one that was not taken before is damaged; the map is then made anew at the next opening.
        """
        np.take(self.map, rows, axis=0, out=out, mode="clip")
        if self._sums is not None and self._is_new[rows].any():
            wrong = rows[_sums(out) != self._sums[rows]]
            if wrong.size:
                self._path.with_name(ABOUT).unlink(missing_ok=True)
                raise TransientError(f"image {wrong[0]} in {self._path} is damaged; the next start decodes all anew")
            self._is_new[rows] = False


class DecodedFrames:
    """Images that are decoded at every use: nothing is kept but the encoded bytes, memory-mapped by `datasets`."""

    def __init__(self, dataset: Dataset, camera: str, cache_dir: Path) -> None:
        self.shape = dataset.cameras[camera]
        self.reads_dataset = dataset.features[image_key(camera)].dtype == "video"
        self._dataset, self._camera = dataset, camera
        self._encoded = None if self.reads_dataset else dataset.encoded_column(camera, cache_dir)
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
                image = decode_image(self._encoded[row].as_py()["bytes"])
            else:
                path, start_s = dataset.video(episode, camera)
                image = next(decode_video(path, start_s + frame / dataset.fps, 1, dataset.fps))
            return dataset.as_wanted(image, camera)
        except (UserError, StopIteration) as error:
            where = f"camera {camera}, episode {episode.number}, frame {frame}"
            raise UserError(f"{dataset.root}: {where}: {one_line(error)}") from error


def default_cache_dir() -> Path:
    """Return where decoded images and columns are kept: $XDG_CACHE_HOME/bag2act, or ~/.cache/bag2act."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bag2act"


def cache_bytes(dataset: Dataset) -> int:
    """Return how much the decoded images of all cameras take."""
    return dataset.n_frames * sum(height * width * channels for height, width, channels in dataset.cameras.values())


def open_frames(
    dataset: Dataset,
    cache_dir: Path,
    mode: Literal["auto", "mmap", "none"] = "auto",
    build: bool = True,
) -> dict[str, Frames]:
    """Return camera -> its images: mapped, or, with mode "none" or "auto" on a disk without room, decoded at each use.

    The first process to ask decodes them into the map; others wait for it and share the result. With `build=False`
    a map is used where there is one. Raises UserError for a disk without room ("mmap") and for a damaged image.
    """
    folder = _folder(dataset, cache_dir)
    if dataset.cameras and mode != "none" and build:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder.with_suffix(".lock"), "decodes the same images"):
            if not _is_whole(dataset, folder) and _has_room(dataset, folder, mode):
                _build(dataset, folder)
    if mode == "none" or not _is_whole(dataset, folder):
        return {camera: DecodedFrames(dataset, camera, cache_dir) for camera in dataset.cameras}
    return {
        camera: MappedFrames(folder / f"{camera}.u8", dataset.n_frames, shape)
        for camera, shape in dataset.cameras.items()
    }


def list_cache(cache_dir: Path) -> list[str]:
    """Describe, a line each, what the cache holds: maps of decoded images, and the columns `datasets` has copied."""
    lines = []
    for folder in sorted((cache_dir / "frames").glob("*/")):
        try:
            of = read_json(folder / ABOUT)["dataset"]
        except (UserError, KeyError, TypeError):
            of = "damaged"
        lines.append(f"{_folder_bytes(folder) / 1e9:8.2f} GB  {folder}  {of}")
    columns = cache_dir / "columns"
    if columns.is_dir():
        lines.append(f"{_folder_bytes(columns) / 1e9:8.2f} GB  {columns}  columns of all datasets")
    return lines


def clear_cache(cache_dir: Path) -> None:
    """Remove what `list_cache` lists; a training that has it mapped goes on, the disk is freed when it ends."""
    for name in ("frames", "columns"):
        shutil.rmtree(cache_dir / name, ignore_errors=True)


def _folder(dataset: Dataset, cache_dir: Path) -> Path:
    parts = [CACHE_VERSION, dataset.fingerprint, dataset.cameras]
    return cache_dir / "frames" / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _is_whole(dataset: Dataset, folder: Path) -> bool:
    """Whether a map of every camera lies there, in its full length, and what is written last lies beside them."""
    sizes = {
        folder / f"{camera}.u8": dataset.n_frames * int(np.prod(shape)) for camera, shape in dataset.cameras.items()
    }
    sizes |= {path.with_suffix(SUMS): dataset.n_frames * np.uint64().nbytes for path in sizes}
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
        log.warning("%s is damaged and is made anew", folder)
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
    frames, sums = _map(path, shape, "r+"), np.empty(dataset.n_frames, np.uint64)

    def fill(episode: Episode) -> None:
        for row, image in enumerate(dataset.images(episode, camera), episode.start):
            frames[row] = image
            sums[row] = _sums(image[None])[0]

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoding leaves Python's lock
        done = pool.map(fill, dataset.episodes)
        for _ in progress(done, len(dataset.episodes), f"decoding {camera}", "episode"):
            pass
    frames.flush()  # type: ignore[attr-defined]
    sums.tofile(path.with_suffix(SUMS))


def _sums(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return each image's sum, of eight bytes at a time: no flipped bit, and no page that became zeros, leaves it the same.

    It costs 0.05 ms for 640x480, where crc32 takes 0.6 and decoding a JPEG some 3.
    """
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    words = flat.view(np.uint64) if flat.shape[1] % 8 == 0 else flat
    sums: npt.NDArray[np.uint64] = words.sum(axis=1, dtype=np.uint64)
    return sums


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _map(path: Path, shape: tuple[int, ...], mode: str) -> npt.NDArray[np.uint8]:
    return np.memmap(path, np.uint8, mode, shape=shape)  # type: ignore[call-overload, no-any-return]
