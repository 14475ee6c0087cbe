"""Converted bags, in the order of their names, become one dataset with its record and its page."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from stage1_convert.config import Config, DataConfig, rule_of, time_source_of
from stage1_convert.dataset.record import (
    FORMAT,
    RECORD_PATH,
    BagEntry,
    ConversionRecord,
    ConversionSettings,
    StreamRule,
    write_record,
)
from stage1_convert.dataset.schema import action_info, describe_features
from stage1_convert.dataset.writer import DatasetWriter
from stage1_convert.pipeline.cache import read_converted, versions
from stage1_convert.report.card import write_card
from stage1_convert.report.page import write_page

SIZE_REMEDY = "set conventions.image_resize"
DUPLICATE = "holds the same recording as bag"
TRUE, FALSE = ("true", "yes", "1", "success"), ("false", "no", "0", "failure")


class Assembly:
    """Gives the episodes their offsets, in the order of the bags; the first good bag sets the images' sizes."""

    def __init__(self, root: Path, cache: Path, config: Config) -> None:
        self._root, self._cache, self._config = root, cache, config
        self._sizes: dict[str, tuple[int, int]] = {}
        self._first = ""
        self._bag_of: dict[str, str] = {}
        self._writer: DatasetWriter | None = None
        self.bags: list[BagEntry] = []

    @property
    def n_episodes(self) -> int:
        """Number of episodes so far."""
        return self._writer.n_episodes if self._writer else 0

    @property
    def n_frames(self) -> int:
        """Number of frames so far."""
        return self._writer.n_frames if self._writer else 0

    def add(self, entry: BagEntry) -> None:
        """Append a bag: the episodes of its converted bag, or only its entry when it is refused.

        A bag whose images do not have the sizes of the first one's is refused, too.
        """
        if not entry.is_converted or entry.key is None:
            self.bags.append(entry)
            return
        folder, config = self._cache / entry.key, self._config
        converted = read_converted(folder)
        known = converted.entry
        sizes = {camera: known.sizes[camera] for camera in config.data.cameras}
        if self._writer is None:
            self._sizes, self._first = sizes, entry.bag
            features = describe_features(config, sizes)
            self._writer = DatasetWriter(self._root, features, config.data.fps, config.data.robot_type)
        if sizes != self._sizes:
            self.bags.append(self._refused_for_its_sizes(entry.bag, known, sizes))
            return
        warnings = [warning for warning in known.warnings if not warning.startswith(DUPLICATE)]
        if entry.key in self._bag_of:
            warnings.append(f"{DUPLICATE} {self._bag_of[entry.key]}: its episodes are in the dataset twice")
        self._bag_of.setdefault(entry.key, entry.bag)
        task, success = task_of(entry.bag, known.custom_data, config), success_of(known.custom_data, config)
        episodes = []
        for number, episode in enumerate(known.episodes):
            index = self._writer.add(converted.files(folder, number), episode.frames, task)
            episodes.append(episode.model_copy(update={"episode_index": index}))
        placed = {"bag": entry.bag, "warnings": warnings, "task": task, "success": success, "episodes": episodes}
        self.bags.append(known.model_copy(update=placed))

    def finish(self, settings: ConversionSettings, workers: int) -> None:
        """Write the dataset, its record, page and card; of a shard without an episode only the record, for a merge."""
        names = [name for bag in self.bags for name in bag.clock]  # those of joints in messages of their own, too
        streams = stream_rules([*self._config.streams, *names], self._config.data)
        record = ConversionRecord(**dict(settings) | {"streams": streams}, bags=self.bags)
        (self._root / RECORD_PATH).parent.mkdir(exist_ok=True)
        write_record(self._root / RECORD_PATH, record)
        if self._writer is not None:
            self._writer.finish(workers)
            write_page(self._root)
            write_card(self._root)

    def _refused_for_its_sizes(self, bag: str, known: BagEntry, sizes: Mapping[str, tuple[int, int]]) -> BagEntry:
        camera = next(camera for camera in sizes if sizes[camera] != self._sizes[camera])
        found, expected = "{}x{}".format(*sizes[camera]), "{}x{}".format(*self._sizes[camera])
        reason = f"camera {camera} gives {found} images, in bag {self._first} {expected}; {SIZE_REMEDY}"
        kept = known.model_dump(exclude_unset=True, exclude={"sizes", "task", "success"})
        return BagEntry.model_validate({**kept, "bag": bag, "status": "refused", "reason": reason, "episodes": []})


def stream_rules(streams: Iterable[str], data: DataConfig) -> dict[str, StreamRule]:
    """Return how each of the streams is aligned."""
    found = {}
    for stream in streams:
        rule, limit_ns = rule_of(stream, data)
        source = time_source_of(stream, data)
        found[stream] = StreamRule(resample=rule, limit_ms=limit_ns / 1e6, time_source=source)
    return found


def conversion_settings(config: Config, trust_images: bool) -> ConversionSettings:
    """Return what conversion.json says of all bags alike; the streams are known when the bags are."""
    rules, data = config.conventions, config.data
    return ConversionSettings(
        format=FORMAT,
        tool={"name": "stage1_convert", **versions()},
        config=config.model_dump(mode="json"),
        action=action_info(config),
        joint_names=rules.joint_order,
        joint_sign=dict(zip(rules.joint_order, rules.signs, strict=True)),
        state_names=list(config.state_names),
        action_names=list(config.action_names),
        cameras=list(data.cameras),
        streams={},
        pictures_verified=not trust_images,
    )


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
    word = (text or "").strip().lower()
    return True if word in TRUE else False if word in FALSE else text
