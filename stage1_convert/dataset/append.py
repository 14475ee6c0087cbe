"""LeRobot v3.0 datasets with the same features, from anybody, in; their episodes one after the other out.

Rows are copied and numbered anew, one file for each episode; video files are copied as they are. Statistics of numbers
are computed again. Those of images come from the tallies that our own datasets keep, or else are pooled: mean and
deviation exactly, quantiles weighted by the number of images, as LeRobot does it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.command import UserError, one_line
from common.lerobot.dataset import (
    ACTION,
    DATA_PATH,
    EPISODES_PATH,
    IMAGE_DTYPES,
    IMAGES,
    VIDEO_PATH,
    Dataset,
    Episode,
    data_file,
    episode_paths,
)
from common.storage.files import read_json, write_json
from stage1_convert.dataset import stats
from stage1_convert.dataset.episode_file import PLACE, EpisodeOffset, RowFile, schema_of
from stage1_convert.dataset.writer import (
    PICTURES_PATH,
    SOURCES_PATH,
    Rows,
    describe_info,
    image_counts,
    link,
    read_columns,
    task_table,
)
from stage1_convert.pipeline.cache import FORMAT, REPORT, versions
from stage1_convert.report.page import write_page

BATCH_ROWS = 256
OWN_TASK = -1  # keep the task_index that each row has


def append(datasets: Sequence[Dataset], records: Sequence[Mapping[str, Any]], root: Path) -> int:
    """Write the episodes of all datasets below `root` and return the number of frames; `records` are their
    conversion.json, empty where there is none.

    Raises UserError when a dataset's features or fps differ from the first one's, or its rows are damaged.
    """
    first = datasets[0]
    for dataset in datasets[1:]:
        _check_fits(dataset, first)
    joined = _Joined(root, first)
    merged, bags = [], list[dict[str, Any]]()
    for dataset, record in zip(datasets, records, strict=True):
        start = joined.n_episodes
        joined.take(dataset)
        head = {key: value for key, value in record.items() if key != "bags"}
        merged.append({"episodes": [start, joined.n_episodes], "conversion": head or None})
        bags += [_moved(bag, start) for bag in record.get("bags", [])]
    joined.finish(datasets)
    tool = {"name": "stage1_convert", **versions()}
    write_json(root / REPORT, {"format": FORMAT, "tool": tool, "merged": merged, "bags": bags})
    write_page(root)
    return joined.n_frames


def _check_fits(dataset: Dataset, first: Dataset) -> None:
    if dataset.fps != first.fps:
        raise UserError(f"{dataset.root} has {dataset.fps} fps, {first.root} {first.fps}: they cannot be joined")
    if list(dataset.features) != list(first.features):
        odd = min(set(dataset.features) ^ set(first.features), default="their order")
        raise UserError(f"{dataset.root} and {first.root} differ in their features: {odd}; they cannot be joined")
    for key, feature in dataset.features.items():
        mine, model = feature._replace(info={}), first.features[key]._replace(info={})
        if key == ACTION:
            mine, model = feature, first.features[key]
        if mine != model:
            raise UserError(
                f"{dataset.root} and {first.root} differ in {key}: {mine[:3]} and {model[:3]}, {mine.info} "
            )


def _moved(bag: Mapping[str, Any], start: int) -> dict[str, Any]:
    episodes = [{**episode, "episode_index": episode["episode_index"] + start} for episode in bag["episodes"]]
    return {**bag, "episodes": episodes}


class _Joined:
    """The dataset that grows below `root`."""

    def __init__(self, root: Path, model: Dataset) -> None:
        self._root, self._model = root, model
        self._schema = schema_of(model.features)
        self._keys = [key for key, feature in model.features.items() if feature.dtype not in IMAGE_DTYPES]
        self._images = [key for key in model.features if key not in self._keys]
        self._columns = stats.Columns()
        self._episodes = Rows(root / EPISODES_PATH.format(chunk_index=0, file_index=0))
        self._tasks: dict[str, int] = {}
        self._videos = {key: dict[Path, int]() for key, f in model.features.items() if f.dtype == "video"}
        self.n_episodes = self.n_frames = 0

    def take(self, dataset: Dataset) -> None:
        """Append the episodes of a dataset."""
        try:
            for episode, row in zip(dataset.episodes, _episode_rows(dataset.root), strict=True):
                self._add(dataset, episode, row)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UserError(f"{dataset.root} cannot be read: {type(error).__name__}: {one_line(error)}") from error

    def finish(self, datasets: Sequence[Dataset]) -> None:
        """Write meta/."""
        meta, totals = self._root / "meta", (self.n_episodes, self.n_frames, len(self._tasks))
        meta.mkdir(exist_ok=True)
        info = describe_info(self._model.features, self._model.fps, self._model.info.robot_type, totals)
        write_json(meta / "info.json", info)
        found = {key: self._columns.stats(key) for key in self._keys}
        found |= {key: self._image_stats(key, datasets) for key in self._images}
        write_json(meta / "stats.json", {key: found[key] for key in self._model.features})
        pq.write_table(task_table(self._tasks), meta / "tasks.parquet")
        self._episodes.close()
        self._write_counts(datasets)

    def _add(self, dataset: Dataset, episode: Episode, row: Mapping[str, Any]) -> None:
        numbers = EpisodeOffset(self.n_episodes, self.n_frames, OWN_TASK)
        chunk, file = data_file(self.n_episodes)
        path = self._root / DATA_PATH.format(chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = RowFile(path, self._schema, numbers)
        tasks = [self._tasks.setdefault(text, len(self._tasks)) for text in _task_texts(dataset.root)]
        stored = [key for key, feature in dataset.features.items() if feature.dtype != "video" and key not in PLACE[:2]]
        for batch in dataset.rows(episode, stored, BATCH_ROWS):
            place = batch.schema.get_field_index("task_index")
            mapped = pa.array(np.array(tasks, np.int64)[np.asarray(batch.column("task_index"))])
            rows.add(batch.set_column(place, "task_index", mapped))
        rows.close()
        arrays = read_columns(path, self._keys, numbers)
        if len(arrays["index"]) != episode.length:
            raise UserError(
                f"{dataset.root}: episode {episode.number} has {len(arrays['index'])} rows, {episode.length} are declared"
            )
        for key, array in arrays.items():
            if not np.isfinite(array).all():
                raise UserError(
                    f"{dataset.root}: episode {episode.number} holds a value of {key} that is no finite number"
                )
            self._columns.add(key, array)
        sources = dataset.root / SOURCES_PATH.format(chunk_index=episode.data_file[0], file_index=episode.data_file[1])
        if sources.is_file():
            link(sources, self._root / SOURCES_PATH.format(chunk_index=chunk, file_index=file))
        entry = {"episode_index": self.n_episodes, "tasks": row["tasks"], "length": episode.length}
        entry |= {"data/chunk_index": chunk, "data/file_index": file}
        entry |= {"dataset_from_index": self.n_frames, "dataset_to_index": self.n_frames + episode.length}
        entry |= self._take_videos(dataset, episode)
        for key in self._model.features:
            if key in self._keys:
                found = stats.vector_stats(arrays[key])
            else:
                found = {name: row[f"stats/{key}/{name}"] for name in stats.NAMES}
            entry |= {f"stats/{key}/{name}": value for name, value in found.items()}
        self._episodes.add({**entry, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        self.n_episodes, self.n_frames = self.n_episodes + 1, self.n_frames + episode.length

    def _take_videos(self, dataset: Dataset, episode: Episode) -> dict[str, Any]:
        """Copy the videos of an episode, each file once, and return where they are now."""
        columns: dict[str, Any] = {}
        for key, known in self._videos.items():
            chunk, file, start_s, stop_s = episode.videos[key]
            source = dataset.root / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)
            place = dict(
                zip(("chunk_index", "file_index"), data_file(known.setdefault(source, len(known))), strict=True)
            )
            target = self._root / VIDEO_PATH.format(video_key=key, **place)
            if not target.exists():
                link(source, target)
            times = {"from_timestamp": start_s, "to_timestamp": stop_s}
            columns |= {f"videos/{key}/{name}": value for name, value in {**place, **times}.items()}
        return columns

    def _image_stats(self, key: str, datasets: Sequence[Dataset]) -> dict[str, list[Any]]:
        paths = [dataset.root / PICTURES_PATH for dataset in datasets]
        if not all(path.is_file() for path in paths):
            raw = [read_json(dataset.root / "meta" / "stats.json") for dataset in datasets]
            return stats.pooled([of[key] for of in raw])
        counted = [counts for path in paths for (_, c), counts in image_counts(path).items() if IMAGES + c == key]
        tally: Any = sum(tally for tally, _ in counted)
        return stats.image_stats(tally, sum(count for _, count in counted))

    def _write_counts(self, datasets: Sequence[Dataset]) -> None:
        """Join the images' tallies when all datasets have them."""
        paths = [dataset.root / PICTURES_PATH for dataset in datasets]
        if all(path.is_file() for path in paths):
            shifts = np.cumsum([0, *(len(dataset.episodes) for dataset in datasets)])
            tables = [_shifted(pq.read_table(path), int(by)) for path, by in zip(paths, shifts, strict=False)]
            pq.write_table(pa.concat_tables(tables), self._root / PICTURES_PATH)


def _shifted(table: pa.Table, by: int) -> pa.Table:
    numbers = pa.array(np.asarray(table.column("episode_index")) + by)
    return table.set_column(table.schema.get_field_index("episode_index"), "episode_index", numbers)


def _episode_rows(root: Path) -> Iterator[dict[str, Any]]:
    for path in episode_paths(root):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                yield from batch.to_pylist()


def _task_texts(root: Path) -> list[str]:
    """Return the tasks of a dataset by their index."""
    table = pq.read_table(root / "meta" / "tasks.parquet").to_pydict()
    text_of = dict(zip(table["task_index"], table["task"], strict=True))
    return [text_of[index] for index in range(len(text_of))]
