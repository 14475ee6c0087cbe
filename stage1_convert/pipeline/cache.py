"""Converted bags in a folder beside the dataset, each named by what made it, so that nothing is converted twice.

A part holds a bag's episodes without a place in any dataset: `record.json`, and for each episode its rows, the sources
of its frames and its videos. Its key is the sha256 of the bag's content and of everything else that shapes the rows.
A finished dataset contains all of its parts, and gives them back as hard links: nothing is stored twice.
"""

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import common.lerobot.dataset
from common.cli.command import UserError, one_line
from common.cli.config import to_dict
from common.lerobot.dataset import DATA_PATH, IMAGES, VIDEO_PATH, data_file
from common.storage.files import (
    DiskFullError,
    full_disk_named,
    locked,
    read_json,
    remove_folder,
    remove_stale,
    sync,
    temporary_path,
    write_json,
)
from stage1_convert.config import Config
from stage1_convert.dataset.writer import PICTURES_PATH, SOURCES_PATH, EpisodeFiles, Tally, image_counts, link

FORMAT = 3  # of meta/conversion.json and of what a part holds: README.md describes both
REPORT = "meta/conversion.json"
RECORD = "record.json"
TWIN = "holds the same recording as bag"
SHAPING = ("columns.py", "dataset.py", "images.py")  # of common; the rest of it decides no byte of a part
PLACELESS = ("task", "task_from", "task_pattern", "success_key", "robot_type", "include", "exclude", "episodes")


class ConvertedBag(NamedTuple):
    """A converted bag: what conversion.json tells of it, its cameras' (height, width), and its episodes."""

    report: dict[str, Any]
    sizes: dict[str, tuple[int, int]]
    pieces: list[EpisodeFiles]


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of all that shapes a dataset's bytes: the start of a sha256 over our own code, and libraries."""
    ours = [
        *(path for path in Path(__file__).parents[1].rglob("*.py") if path.parent.name not in ("check", "report")),
        *(Path(common.lerobot.dataset.__file__).with_name(name) for name in SHAPING),
    ]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(ours))).hexdigest()[:12]
    libraries = {"numpy": np.__version__, "opencv": cv2.__version__, "pyarrow": pa.__version__, "av": av.__version__}
    return {"code": code, "rosbags": version("rosbags"), **libraries}


def key_of(bag: str, sums: Mapping[str, str], config: Config, trust_images: bool) -> str:
    """Return the name of a bag's part; `sums` maps its files to their sha256. The bag's name only decides which of its
    episodes are wanted.
    """
    settings = to_dict(config)
    for name in PLACELESS:  # decided when the parts are put together
        del settings["data"][name]
    made_of = {"files": dict(sums), "settings": settings, "trust_images": trust_images}
    if bag in config.data.episodes:
        made_of["episodes"] = sorted(set(config.data.episodes[bag]))
    text = json.dumps({"format": FORMAT, "versions": versions(), **made_of}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def parts_path(out: Path) -> Path:
    """Return the folder of the parts of the dataset `out`."""
    return out.with_name(f".{out.name}.parts")


@contextlib.contextmanager
def parts_folder(out: Path) -> Iterator[Path]:
    """Yield the folder of the parts of the dataset `out`, locked; it vanishes when the block ends well or when empty.

    Raises UserError when another process converts to `out`, and DiskFullError, which tells of parts that wait there.
    """
    folder = parts_path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made: {one_line(error)}") from error
    remove_stale(folder.parent)
    refusal = f"another conversion to --out {out} is running; wait for it or choose another --out"
    with full_disk_named(out), locked(folder, refusal):
        remove_stale(folder)
        try:
            yield folder
        except BaseException as error:
            for unfinished in folder.glob(".tmp-*"):  # of processes that were stopped
                shutil.rmtree(unfinished, ignore_errors=True)
            if not any(folder.glob(f"*/{RECORD}")):
                remove_folder(folder)
            elif isinstance(error, DiskFullError):
                raise DiskFullError(f"{error}; what is done waits in {folder}") from error
            raise
        remove_folder(folder)


@contextlib.contextmanager
def new_part(parts: Path, key: str) -> Iterator[Path]:
    """Yield a temporary folder that becomes the part `key`, complete, when the block ends well."""
    temporary = temporary_path(parts / key)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        with contextlib.suppress(OSError) if (parts / key).exists() else contextlib.nullcontext():
            temporary.rename(parts / key)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_record(folder: Path, part: ConvertedBag) -> None:
    """Write the record of a part whose episodes' files lie in `folder` already."""
    pieces = [
        {
            "report": piece.report,
            "images": {c: {"count": n, "tally": h.tolist()} for c, (h, n) in piece.images.items()},
        }
        for piece in part.pieces
    ]
    write_json(folder / RECORD, {"report": part.report, "sizes": part.sizes, "pieces": pieces})


def read_part(folder: Path) -> ConvertedBag:
    """Return the part in `folder`."""
    record = read_json(folder / RECORD)
    sizes = {camera: (height, width) for camera, (height, width) in record["sizes"].items()}
    pieces = []
    for number, piece in enumerate(record["pieces"]):
        images = {c: (np.array(p["tally"], np.int64), p["count"]) for c, p in piece["images"].items()}
        pieces.append(piece_in(folder, number, sizes, images, piece["report"]))
    return ConvertedBag(record["report"], sizes, pieces)


def piece_in(
    folder: Path, number: int, cameras: Iterable[str], images: dict[str, Tally], report: dict[str, Any]
) -> EpisodeFiles:
    """Return the `number`-th episode of the part in `folder`."""
    videos = {camera: folder / f"{number:03d}.{camera}.mp4" for camera in cameras}
    return EpisodeFiles(
        folder / f"{number:03d}.parquet",
        folder / f"{number:03d}.sync.parquet",
        {camera: path for camera, path in videos.items() if path.exists()},
        images,
        report,
    )


def adopt(dataset: Path, parts: Path) -> list[dict[str, Any]]:
    """Give the parts of a finished dataset back to the folder `parts`; returns what its record tells of every bag.

    An episode whose files are not as the record says is left alone: its bag is converted again.
    """
    bags = recorded_bags(dataset)
    counts = image_counts(dataset / PICTURES_PATH) if (dataset / PICTURES_PATH).is_file() else {}
    for bag in bags:
        if bag["status"] == "converted" and not (parts / bag["key"]).exists():
            with contextlib.suppress(OSError, KeyError, pa.ArrowException), new_part(parts, bag["key"]) as folder:
                _take_back(dataset, folder, bag, counts)
    return bags


def recorded_bags(dataset: Path) -> list[dict[str, Any]]:
    """Return what the record of a dataset tells of every bag."""
    return list(record_of(dataset).get("bags", []))


def record_of(dataset: Path) -> dict[str, Any]:
    """Return the record of a dataset, conversion.json; empty where there is none, or one of another format."""
    record = read_json(dataset / REPORT) if (dataset / REPORT).is_file() else {}
    return record if isinstance(record, dict) and record.get("format") == FORMAT else {}


def _take_back(dataset: Path, folder: Path, bag: dict[str, Any], counts: Mapping[tuple[int, str], Tally]) -> None:
    pieces, cameras = [], bag["sizes"]
    for number, episode in enumerate(bag["episodes"]):
        at = episode["episode_index"]
        chunk, file = data_file(at)
        rows = dataset / DATA_PATH.format(chunk_index=chunk, file_index=file)
        if pq.read_metadata(rows).num_rows != episode["frames"]:
            raise KeyError(f"{rows} was changed")
        link(rows, folder / f"{number:03d}.parquet")
        sources = dataset / SOURCES_PATH.format(chunk_index=chunk, file_index=file)
        link(sources, folder / f"{number:03d}.sync.parquet")
        for camera in cameras:
            video = VIDEO_PATH.format(video_key=IMAGES + camera, chunk_index=chunk, file_index=file)
            if (dataset / video).exists():
                link(dataset / video, folder / f"{number:03d}.{camera}.mp4")
        report = {name: value for name, value in episode.items() if name != "episode_index"}
        pieces.append(piece_in(folder, number, cameras, {c: counts[at, c] for c in cameras}, report))
    placed = ("bag", "status", "reason", "task", "success", "episodes", "sizes")
    report = {name: value for name, value in bag.items() if name not in placed}
    report["warnings"] = [text for text in report["warnings"] if not text.startswith(TWIN)]
    write_record(folder, ConvertedBag(report, cameras, pieces))
