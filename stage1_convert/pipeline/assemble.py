"""Parts in the order of their bags in; one dataset with its record, conversion.json, out."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.cli.config import to_dict
from common.storage.files import write_json
from stage1_convert.align.episodes import rule_of
from stage1_convert.config import Config
from stage1_convert.dataset.schema import action_info, describe_features
from stage1_convert.dataset.writer import DatasetWriter
from stage1_convert.pipeline.cache import FORMAT, REPORT, TWIN, read_part, versions
from stage1_convert.report.page import write_page

SIZE_FAULT = "set conventions.image_resize"
TRUTH = {
    "true": True,
    "yes": True,
    "1": True,
    "success": True,
    "false": False,
    "no": False,
    "0": False,
    "failure": False,
}


class Assembly:
    """EpisodeOffset the episodes in the order of the bags; the first good bag sets the images' size."""

    def __init__(self, root: Path, parts: Path, config: Config) -> None:
        self._root, self._parts, self._config = root, parts, config
        self._sizes: dict[str, tuple[int, int]] = {}
        self._model = ""
        self._same: dict[str, str] = {}
        self.writer: DatasetWriter | None = None
        self.reports: list[dict[str, Any]] = []

    def refuse(self, bag: str, report: Mapping[str, Any]) -> None:
        """Note a bag that could not be converted; `report` holds the reason and what else is known."""
        self.reports.append({**_entry(bag, "refused"), **report, "episodes": []})

    def add(self, bag: str, key: str) -> bool:
        """Take in the part of a bag; false when its images do not fit the others' and it is refused."""
        part, config = read_part(self._parts / key), self._config
        sizes = {camera: part.sizes[camera] for camera in config.data.cameras}
        if self.writer is None:
            self._sizes, self._model = sizes, bag
            features = describe_features(config, sizes)
            self.writer = DatasetWriter(self._root, features, config.data.fps, config.data.robot_type)
        if sizes != self._sizes:
            self.refuse(bag, {**part.report, "reason": _size_fault(sizes, self._sizes, self._model)})
            return False
        task, report = task_of(bag, part.report["custom_data"], config), dict(part.report)
        if key in self._same:
            twin = f"{TWIN} {self._same[key]}: its episodes are in the dataset twice"
            report["warnings"] = [*report["warnings"], twin]
        self._same.setdefault(key, bag)
        episodes = [{"episode_index": self.writer.add(piece, task), **piece.report} for piece in part.pieces]
        outcome = {"task": task, "success": success_of(part.report["custom_data"], config), "sizes": part.sizes}
        self.reports.append({**_entry(bag, "converted"), **report, **outcome, "episodes": episodes})
        return True

    def finish(self, head: Mapping[str, Any]) -> None:
        """Write meta/, `head` being what the record tells of all bags alike; of a shard without an episode the record only,
        by which merge knows its refused bags.
        """
        (self._root / REPORT).parent.mkdir(exist_ok=True)
        write_json(self._root / REPORT, {**head, "bags": self.reports})
        if self.writer is not None:
            self.writer.finish()
            write_page(self._root)


def head(config: Config, trust_images: bool) -> dict[str, Any]:
    """Return what conversion.json tells of all bags alike."""
    rules, data = config.conventions, config.data
    streams = {}
    for stream in config.streams:
        rule, limit_ns = rule_of(stream, data)
        source = data.time_source_by_stream.get(stream, data.time_source)
        streams[stream] = {"resample": rule, "limit_ms": limit_ns / 1e6, "time_source": source}
    signs = rules.joint_sign if rules.apply_joint_sign else [1.0] * len(rules.joint_order)
    return {
        "format": FORMAT,
        "tool": {"name": "stage1_convert", **versions()},
        "config": to_dict(config),
        "action": action_info(config),
        "joint_names": rules.joint_order,
        "joint_sign": dict(zip(rules.joint_order, signs, strict=True)),
        "state_names": list(config.state_names),
        "action_names": list(config.action_names),
        "cameras": list(data.cameras),
        "streams": streams,
        "pictures_verified": not trust_images,
    }


def task_of(bag: str, custom_data: Mapping[str, str], config: Config) -> str:
    """Return what a bag shows, in words; see data.task_from."""
    data, found = config.data, None
    if data.task_from == "bag":
        found = custom_data.get("task")
    elif data.task_pattern is not None:
        match = re.search(data.task_pattern, bag)
        found = match[1].replace("_", " ") if match and match[1] else None
    return found.strip() if found and found.strip() else data.task


def success_of(custom_data: Mapping[str, str], config: Config) -> bool | str | None:
    """Return whether a demonstration succeeded, the recorded text where that is no yes or no, None where none is."""
    text = custom_data.get(config.data.success_key)
    return None if text is None else TRUTH.get(text.strip().lower(), text)


def _entry(bag: str, status: str) -> dict[str, Any]:
    return {"bag": bag, "status": status, "reason": None, "warnings": []}


def _size_fault(found: dict[str, tuple[int, int]], sizes: dict[str, tuple[int, int]], model: str) -> str:
    camera = next(camera for camera in sizes if found[camera] != sizes[camera])
    here, there = ("{}x{}".format(*of[camera]) for of in (found, sizes))
    return f"camera {camera} gives {here} images, in bag {model} {there}; {SIZE_FAULT}"
