"""What LeRobot needs of meta/ beyond what our own reader does."""

import json
from collections.abc import Iterator

import pyarrow.parquet as pq

from common.lerobot.metadata import DATA_PATH, IMAGE_DTYPES, INDEX_COLUMNS, VIDEO_PATH, read_episodes
from common.storage.files import read_json
from stage1_convert.check.findings import Finding, Opened, expect

INFO, TASKS, EPISODES = "meta/info.json", "meta/tasks.parquet", "meta/episodes"
CHANNELS = ("channel", "channels")  # by this name LeRobot knows which axis to move to the front
TASK_INDEX = (["task"], ["__index_level_0__"])  # of the pandas table; the second is LeRobot 0.4's
TOLERANCE_S = 1e-4  # LeRobot's, of times in a video


def check_info(opened: Opened) -> Iterator[Finding]:
    """The counts and paths of info.json, which LeRobot believes, and the index columns that it adds to every dataset."""
    info, features = read_json(opened.root / INFO), opened.dataset.features
    yield from expect(INFO, "total_episodes", info.get("total_episodes"), len(opened.dataset.episodes))
    yield from expect(INFO, "data_path", info.get("data_path"), DATA_PATH)
    if any(feature.dtype == "video" for feature in features.values()):
        yield from expect(INFO, "video_path", info.get("video_path"), VIDEO_PATH)
    for key, dtype in INDEX_COLUMNS.items():
        found = (features[key].dtype, features[key].shape) if key in features else None
        yield from expect(INFO, f"features.{key}", found, (dtype, (1,)))


def check_axes(opened: Opened) -> Iterator[Finding]:
    """The names of an image's axes: by other names LeRobot gives a policy another shape, without a word."""
    for key, feature in opened.dataset.features.items():
        names = feature.names or ()
        height_first = names[:2] == ("height", "width") and names[2:] in {(name,) for name in CHANNELS}
        channels_first = names[:1] in {(name,) for name in CHANNELS}
        if feature.dtype in IMAGE_DTYPES and not (height_first or channels_first):
            expected = "expected the axes [height, width, channels]: by other names policies read another shape"
            yield Finding("fault", f"{INFO}: features.{key}.names: found {list(names)}, {expected}")


def check_tasks(opened: Opened) -> Iterator[Finding]:
    """The texts of the tasks: LeRobot reads none where total_tasks is 0, and takes them from the index of a pandas table."""
    path = opened.root / TASKS
    if not path.is_file():
        yield Finding("fault", f"{TASKS} is missing")
        return
    table = pq.read_table(path)
    index = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns")
    if index not in TASK_INDEX or not {*index, "task_index"} <= set(table.column_names):
        found = f"found the columns {table.column_names}, the pandas index {index}"
        yield Finding("fault", f"{TASKS}: {found}, expected `task` as the index: LeRobot shows row numbers as tasks")
        return
    numbers = table.column("task_index").to_pylist()
    yield from expect(TASKS, "task_index", numbers, list(range(len(numbers))))
    total = read_json(opened.root / INFO).get("total_tasks")
    yield from expect(INFO, "total_tasks (rows of meta/tasks.parquet)", total, len(numbers))
    used = opened.columns.get("task_index")
    for row in [] if used is None else ((used < 0) | (used >= len(numbers))).nonzero()[0][:1]:
        place = f"{opened.place(row)}: task_index"
        yield Finding("fault", f"{place}: found {used[row]}, expected 0 to {len(numbers) - 1}")  # type: ignore[index]


def check_episodes(opened: Opened) -> Iterator[Finding]:
    """The columns of meta/episodes that only LeRobot reads: lengths, and where videos end."""
    rows = read_episodes(opened.root, lambda name: name == "length" or name.endswith("/to_timestamp"))
    for episode, row in zip(opened.dataset.episodes, rows, strict=True):
        place = f"{EPISODES}: row {episode.number}"
        yield from expect(place, "length", row.get("length"), episode.length)
        for key, (_, _, start_s, stop_s) in episode.videos.items():
            expected_s = start_s + episode.length / opened.dataset.fps
            if abs(stop_s - expected_s) > TOLERANCE_S:
                found = f"found {stop_s:.6f}, expected {expected_s:.6f} for {episode.length} frames"
                yield Finding("fault", f"{place}: videos/{key}/to_timestamp: {found}")


def check_left_over(opened: Opened) -> Iterator[Finding]:
    """What LeRobot leaves behind when a recording is killed."""
    if (opened.root / "images").is_dir():
        yield Finding(
            "warning", "images/ is left over from a recording that did not end: LeRobot removes it at the end"
        )


def check_columns(opened: Opened) -> Iterator[Finding]:
    """The columns of each data file: LeRobot refuses any that info.json does not declare, and fails on any that is missing."""
    features = opened.dataset.info.features
    declared = {key for key, feature in features.items() if feature.dtype != "video"}
    for path, _, _ in opened.files:
        found = set(pq.read_schema(path).names)
        file = path.relative_to(opened.root)
        for keys, words in (
            (declared - found, "missing, which info.json declares"),
            (found - declared, "in no feature of info.json"),
        ):
            if keys:
                yield Finding(
                    "fault", f"{file}: columns {', '.join(sorted(keys))} are {words}: LeRobot refuses the dataset"
                )
