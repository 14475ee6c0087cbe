"""Check meta/info.json, and return what it declares as far as it is valid."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field, StrictStr

from common.cli.command import UserError
from common.lerobot.metadata import (
    CONVERT_V21,
    DATA_PATH,
    FILES_PER_CHUNK,
    IMAGE_DTYPES,
    INDEX_COLUMNS,
    VIDEO_PATH,
    Feature,
)
from common.lerobot.names import value_names
from common.storage.files import read_json
from stage1_convert.check.findings import Findings

CHANNEL_NAMES = ("channel", "channels")  # by this name LeRobot knows which axis to move to the front
Count = Annotated[int, Field(strict=True, gt=0)]


class DatasetInfo(BaseModel):
    """The keys of info.json that have a type of their own; others are allowed."""

    codebase_version: Literal["v3.0"]
    fps: Annotated[float, Field(strict=True, gt=0, multiple_of=1, allow_inf_nan=False)]
    features: dict[str, Any]
    total_episodes: Count
    total_frames: Count
    total_tasks: Count  # without tasks LeRobot reads none and fails on every item
    chunks_size: Annotated[int, Field(strict=True, gt=0, le=FILES_PER_CHUNK)] = (
        FILES_PER_CHUNK  # names would sort wrongly
    )
    data_files_size_in_mb: Count = 1
    video_files_size_in_mb: Count = 1
    robot_type: StrictStr | None = None


class FeatureInfo(BaseModel):
    """A feature of info.json."""

    dtype: Literal[
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
        "string", "image", "video",
    ]  # fmt: skip
    shape: Annotated[list[Count], Field(min_length=1)]
    names: Any = None  # LeRobot takes whatever is there
    info: dict[str, Any] | None = None


class Declared(NamedTuple):
    """What info.json declares, with the features that are valid; counts that are not are None."""

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

    def of_dtype(self, *dtypes: str) -> dict[str, Feature]:
        """The features of these dtypes."""
        return {key: feature for key, feature in self.features.items() if feature.dtype in dtypes}


def check_info(path: Path, findings: Findings) -> Declared | None:
    """Check info.json; None when nothing else can be checked against it."""
    findings.files.add(path)
    try:
        info = read_json(path)
    except UserError as error:
        findings.add(path, str(error).removeprefix(f"{path} "))
        return None
    invalid = findings.validate(DatasetInfo, path, info)
    if isinstance(info, dict) and info.get("codebase_version") == "v2.1":
        findings.add(path, f"codebase_version v2.1: {CONVERT_V21}")
    if not isinstance(info, dict) or invalid & {"fps", "features"}:
        return None
    features: dict[str, Feature] = {}
    for key, raw in info["features"].items():
        feature = _check_feature(path, key, raw, info["fps"], findings)
        if feature is not None:
            features[key] = feature
    valid = {key: value for key, value in info.items() if key not in invalid}
    _check_index_columns(path, info["features"], findings)
    findings.expect(path, "data_path", info.get("data_path"), DATA_PATH)
    if info.get("video_path") is not None or any(feature.dtype == "video" for feature in features.values()):
        findings.expect(path, "video_path", info.get("video_path"), VIDEO_PATH)
    _check_splits(path, info.get("splits"), valid.get("total_episodes"), findings)
    return Declared(
        fps=float(info["fps"]),
        features=features,
        episodes=valid.get("total_episodes"),
        frames=valid.get("total_frames"),
        tasks=valid.get("total_tasks"),
        chunks_size=valid.get("chunks_size", FILES_PER_CHUNK),
    )


def _check_index_columns(path: Path, features: Mapping[str, Any], findings: Findings) -> None:
    for key, dtype in INDEX_COLUMNS.items():
        raw = features.get(key)
        if not isinstance(raw, dict):
            findings.add(path, f"features.{key} is missing")
            continue
        expected = {"dtype": dtype, "shape": [1], "names": None}
        findings.expect(path, f"features.{key}", {name: raw.get(name) for name in expected}, expected)
    if all(key in features for key in INDEX_COLUMNS):
        findings.expect(path, "the last features", list(features)[-len(INDEX_COLUMNS) :], list(INDEX_COLUMNS))


def _check_splits(path: Path, splits: Any, episodes: int | None, findings: Findings) -> None:
    """Splits are optional; those that exist must be ranges of episodes that follow each other and cover all."""
    if splits is None or episodes is None:
        return
    ranges = []
    for name, text in splits.items() if isinstance(splits, dict) else [("", splits)]:
        match = re.fullmatch(r"(\d+):(\d+)", text) if isinstance(text, str) else None
        if not match:
            findings.add(path, f"splits.{name}: found {text!r}, expected episodes such as '0:{episodes}'")
            return
        ranges.append((int(match[1]), int(match[2])))
    ranges.sort()
    ends = [0, *(stop for _, stop in ranges)]
    if [start for start, _ in ranges] != ends[:-1] or ends[-1] != episodes:
        findings.add(path, f"splits: found {splits}, expected to cover the episodes 0:{episodes}")


def _check_feature(path: Path, key: str, raw: Any, fps: float, findings: Findings) -> Feature | None:
    """Return a feature, or None after adding findings about it."""
    where = f"features.{key}"
    if "/" in key:
        findings.add(path, f"{where}: the name of a feature may not contain '/'")
    if findings.validate(FeatureInfo, path, raw, where):
        return None
    found = FeatureInfo.model_validate(raw)
    shape = found.shape
    names, odd = value_names(found.names, len(shape) if len(shape) > 1 else shape[0])
    if odd and found.dtype not in IMAGE_DTYPES:
        findings.hint(path, f"{where}.names: {odd}")
    feature = Feature(found.dtype, tuple(shape), names, found.info or {})
    is_image = feature.dtype in IMAGE_DTYPES
    return feature if not is_image or _check_image(path, where, feature, fps, findings) else None


def _check_image(path: Path, where: str, feature: Feature, fps: float, findings: Findings) -> bool:
    names = feature.names or ()
    if len(feature.shape) != 3 or names[:2] != ("height", "width") or names[2:] not in {(n,) for n in CHANNEL_NAMES}:
        findings.add(
            path,
            f"{where}: found shape {list(feature.shape)} named {list(names)}, expected [height, width, channels] named so: "
            "with another order policies silently read another shape",
        )
        return False
    declared = dict(zip(("video.height", "video.width", "video.channels"), feature.shape, strict=True))
    for name, expected in {**declared, "video.fps": fps}.items():
        if name in feature.info:
            findings.expect(path, f"{where}.info.{name}", feature.info[name], expected)
    return True
