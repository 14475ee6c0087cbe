"""All pictures of a dataset in, decoded once into a uint8 memory map that every process of the machine shares."""

import fcntl
import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.command import progress
from common.dataset import Dataset, Episode
from common.files import new_folder, remove_stale, require_free

CACHE_VERSION = 1  # part of the key: a cache written by other code is never misread
log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Return where decoded pictures and columns are kept: $XDG_CACHE_HOME/bag2act, or ~/.cache/bag2act."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bag2act"


def open_frames(dataset: Dataset, cache_dir: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """Return camera -> (rows, height, width, 3) uint8 memory map of every picture, RGB.

    The first process to ask decodes the pictures; others, of this run or of another, wait for it and share the result.
    The key holds the dataset's fingerprint, so a changed dataset is decoded anew. A disk without room is a UserError.
    """
    folder = cache_dir / "frames" / _key(dataset)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released by the kernel when the holder dies, unlike a marker file
        if not folder.exists():
            _build(dataset, folder)
    return {
        camera: _map(folder / f"{camera}.u8", (dataset.n_frames, *shape), "r")
        for camera, shape in dataset.cameras.items()
    }


def _key(dataset: Dataset) -> str:
    parts = [CACHE_VERSION, dataset.fingerprint, dataset.cameras]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _build(dataset: Dataset, folder: Path) -> None:
    size_bytes = sum(dataset.n_frames * int(np.prod(shape)) for shape in dataset.cameras.values())
    log.info(
        "decoding %d pictures once into %s (%.2f GB)", dataset.n_frames * len(dataset.cameras), folder, size_bytes / 1e9
    )
    remove_stale(folder.parent)
    require_free(folder, size_bytes, "the decoded pictures")
    with new_folder(folder, manifest=False) as temporary:
        for camera, shape in dataset.cameras.items():
            path = temporary / f"{camera}.u8"
            with path.open("wb") as file:
                # Reserve the blocks now: a sparse map on a full disk dies by SIGBUS instead of an error.
                os.posix_fallocate(file.fileno(), 0, dataset.n_frames * int(np.prod(shape)))
            frames = _map(path, (dataset.n_frames, *shape), "r+")

            def fill(episode: Episode, camera: str = camera, frames: npt.NDArray[np.uint8] = frames) -> None:
                for row, picture in enumerate(dataset.pictures(episode, camera), episode.start):
                    frames[row] = picture

            with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock
                for _ in progress(
                    pool.map(fill, dataset.episodes), len(dataset.episodes), f"decoding {camera}", "episode"
                ):
                    pass
            frames.flush()  # type: ignore[attr-defined]


def _map(path: Path, shape: tuple[int, ...], mode: str) -> npt.NDArray[np.uint8]:
    return np.memmap(path, np.uint8, mode, shape=shape)  # type: ignore[call-overload, no-any-return]
