"""meta/info.json in; what it declares, as far as it can be relied on, and its faults, out."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from common.cli.command import UserError
from common.lerobot.dataset import (
    DATA_PATH,
    FILES_PER_CHUNK,
    IMAGE_DTYPES,
    INDEX_COLUMNS,
    VERSION,
    VIDEO_PATH,
    Feature,
)
from common.storage.files import read_json
from stage1_convert.check.faults import Findings

SIGNED, UNSIGNED = ("int8", "int16", "int32", "int64"), ("uint8", "uint16", "uint32", "uint64")
DTYPES = ("bool", *SIGNED, *UNSIGNED, "float16", "float32", "float64", "string")
CHANNEL_NAMES = ("channel", "channels")  # by this name LeRobot knows which axis to move to the front
COUNTS = ("total_episodes", "total_frames", "total_tasks")  # without tasks LeRobot reads none and fails on every item
SIZES = ("chunks_size", "data_files_size_in_mb", "video_files_size_in_mb")


class Declared(NamedTuple):
    """What info.json declares, with the features that are sound; counts that are not are None."""

    fps: float
    features: dict[str, Feature]
    episodes: int | None
    frames: int | None
    tasks: int | None
    chunks_size: int

    @property
    def columns(self) -> dict[str, Feature]:
        """The features that have a column in the data files."""
        return {key: feature for key, feature in self.features.items() if feature.dtype != "video"}

    def of(self, *dtypes: str) -> dict[str, Feature]:
        """The features of these dtypes."""
        return {key: feature for key, feature in self.features.items() if feature.dtype in dtypes}


def check_info(path: Path, faults: Findings) -> Declared | None:
    """Check info.json; None when so little of it holds that nothing else can be held against it."""
    faults.files.add(path)
    try:
        info = read_json(path)
    except UserError as error:
        faults.add(path, str(error).removeprefix(f"{path} "))
        return None
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
        faults.add(path, "expected an object with the object `features`")
        return None
    faults.expect(path, "codebase_version", info.get("codebase_version"), VERSION)
    fps: Any = info.get("fps")
    if not _is_number(fps) or fps <= 0 or fps != int(fps):
        faults.add(path, f"fps: found {fps!r}, expected a whole number above 0")
        return None
    _check_counts(path, info, faults)
    features = {key: _feature(path, key, raw, fps, faults) for key, raw in info["features"].items()}
    sound = {key: feature for key, feature in features.items() if feature is not None}
    _check_index_columns(path, info["features"], faults)
    _check_paths(path, info, any(feature.dtype == "video" for feature in sound.values()), faults)
    _check_splits(path, info.get("splits"), info.get("total_episodes"), faults)
    episodes, frames, tasks = (info.get(key) if _is_count(info.get(key)) else None for key in COUNTS)
    size = info.get("chunks_size", FILES_PER_CHUNK)
    return Declared(float(fps), sound, episodes, frames, tasks, size if _is_count(size) else FILES_PER_CHUNK)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_counts(path: Path, info: Mapping[str, Any], faults: Findings) -> None:
    for key in (*COUNTS, *(key for key in SIZES if key in info)):
        if not _is_count(info.get(key)):
            faults.add(path, f"{key}: found {info.get(key)!r}, expected a whole number above 0")
    if _is_count(info.get("chunks_size")) and info["chunks_size"] > FILES_PER_CHUNK:
        faults.add(
            path,
            f"chunks_size: found {info['chunks_size']}, expected at most {FILES_PER_CHUNK}: file-1000 would sort "
            "before file-101",
        )
    if not isinstance(info.get("robot_type"), str | None):
        faults.add(path, f"robot_type: found {info['robot_type']!r}, expected text or null")


def _check_index_columns(path: Path, features: Mapping[str, Any], faults: Findings) -> None:
    for key, dtype in INDEX_COLUMNS.items():
        raw = features.get(key)
        if not isinstance(raw, dict):
            faults.add(path, f"features.{key} is missing")
            continue
        expected = {"dtype": dtype, "shape": [1], "names": None}
        faults.expect(path, f"features.{key}", {name: raw.get(name) for name in expected}, expected)
    if all(key in features for key in INDEX_COLUMNS):
        faults.expect(path, "the last features", list(features)[-len(INDEX_COLUMNS) :], list(INDEX_COLUMNS))


def _check_paths(path: Path, info: Mapping[str, Any], has_video: bool, faults: Findings) -> None:
    faults.expect(path, "data_path", info.get("data_path"), DATA_PATH)
    if has_video or info.get("video_path") is not None:
        faults.expect(path, "video_path", info.get("video_path"), VIDEO_PATH)


def _check_splits(path: Path, splits: Any, episodes: Any, faults: Findings) -> None:
    """Splits may be left out; what is there must be ranges of episodes that follow each other and cover all."""
    if splits is None or not _is_count(episodes):
        return
    ranges = []
    for name, text in splits.items() if isinstance(splits, dict) else [("", splits)]:
        match = re.fullmatch(r"(\d+):(\d+)", text) if isinstance(text, str) else None
        if not match:
            faults.add(path, f"splits.{name}: found {text!r}, expected episodes such as '0:{episodes}'")
            return
        ranges.append((int(match[1]), int(match[2])))
    ranges.sort()
    ends = [0, *(stop for _, stop in ranges)]
    if [start for start, _ in ranges] != ends[:-1] or ends[-1] != episodes:
        faults.add(path, f"splits: found {splits}, expected to cover the episodes 0:{episodes}")


def _feature(path: Path, key: str, raw: Any, fps: float, faults: Findings) -> Feature | None:
    """Return a feature, or None after noting what is wrong with it."""
    if "/" in key:
        faults.add(path, f"features.{key}: a feature's name may not contain '/'")
    if not isinstance(raw, dict):
        faults.add(path, f"features.{key}: found {raw!r}, expected an object")
        return None
    dtype, shape, info = raw.get("dtype"), raw.get("shape"), raw.get("info") or {}
    if dtype not in (*DTYPES, *IMAGE_DTYPES):
        faults.add(
            path, f"features.{key}.dtype: found {dtype!r}, expected one of {', '.join((*DTYPES, *IMAGE_DTYPES))}"
        )
        return None
    if not isinstance(shape, list) or not shape or not all(_is_count(size) for size in shape):
        faults.add(path, f"features.{key}.shape: found {shape!r}, expected a list of whole numbers above 0")
        return None
    if not isinstance(info, dict):
        faults.add(path, f"features.{key}.info: found {info!r}, expected an object")
        info = {}
    names = _names(path, key, raw.get("names"), shape, faults)
    feature = Feature(dtype, tuple(shape), names, info)
    return _image(path, key, feature, fps, faults) if dtype in IMAGE_DTYPES else feature


def _names(path: Path, key: str, names: Any, shape: list[int], faults: Findings) -> tuple[str, ...] | None:
    if isinstance(names, dict) and len(names) == 1:  # LeRobot also writes {"motors": [...]}
        names = next(iter(names.values()))
    if names is None:
        return None
    expected = len(shape) if len(shape) > 1 else shape[0]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        faults.add(path, f"features.{key}.names: found {names!r}, expected a list of names")
        return None
    if len(names) != expected:
        faults.add(path, f"features.{key}.names: found {len(names)} names, expected {expected} for shape {shape}")
    elif len(set(names)) != len(names):
        faults.add(path, f"features.{key}.names: found {names}, expected different names")
    return tuple(names)


def _image(path: Path, key: str, feature: Feature, fps: float, faults: Findings) -> Feature | None:
    names = feature.names or ()
    if len(feature.shape) != 3 or names[:2] != ("height", "width") or names[2:] not in {(n,) for n in CHANNEL_NAMES}:
        faults.add(
            path,
            f"features.{key}: found shape {list(feature.shape)} named {list(names)}, expected [height, width, "
            "channels] named so: with another order policies silently see another shape",
        )
        return None
    declared = {"video.height": feature.shape[0], "video.width": feature.shape[1], "video.channels": feature.shape[2]}
    for name, expected in {**declared, "video.fps": fps}.items():
        if name in feature.info:
            faults.expect(path, f"features.{key}.info.{name}", feature.info[name], expected)
    return feature
