"""Datasets that are whole pass; every single corruption is found and named by its file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.cli.command import UserError
from common.cli.config import load
from stage1_convert.check import check, print_report
from stage1_convert.config import Config
from stage1_convert.pipeline.convert import Options, convert
from stage1_convert.pipeline.merge import merge
from stage1_convert.sources.source import open_source
from tests.conftest import GOLDEN, run_module
from tests.stage1_convert.conversion import run
from tests.stage1_convert.recording import RAW_TOPIC, cell

COLOR = "observation.images.color"
INFO, STATS, RECORD = "meta/info.json", "meta/stats.json", "meta/conversion.json"
TASKS = "meta/tasks.parquet"
DATA, SECOND = "data/chunk-000/file-000.parquet", "data/chunk-000/file-001.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
SYNC = "meta/sync/chunk-000/file-000.parquet"
VIDEO = f"videos/{COLOR}/chunk-000/file-000.mp4"
NAN = float("nan")

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bags converted by this project."""
    folder = tmp_path_factory.mktemp("check")
    for seed in range(2):
        cell(seed=seed).write(folder / "src" / f"bag{seed}")
    run(folder / "src", folder / "out")
    return folder / "out"


@pytest.fixture
def sources(converted: Path) -> dict[str, Path]:
    """The datasets to damage: ours, and LeRobot's own two."""
    return {"ours": converted, "image": GOLDEN / "dataset_image", "video": GOLDEN / "dataset_video"}


@pytest.mark.parametrize(("kind", "files"), [("ours", 9), ("image", 5), ("video", 6)])
def test_a_whole_dataset_has_no_fault(kind: str, files: int, sources: dict[str, Path]) -> None:
    report = check(sources[kind])
    assert not report.faults
    assert report.files == files
    assert report.frames == report.images == (90 if kind == "ours" else 42)


@pytest.mark.parametrize(
    "settings",
    [
        ["data.storage=png", "data.sync_columns=true"],
        ["data.storage=video", "conventions.action=next_position"],
        ["conventions.image_resize=[24, 32]", "conventions.wrap_angles=true", "data.resample=linear"],
        ["conventions.apply_joint_sign=true", "data.fps=15", "data.max_episode_s=1", "data.resample=nearest"],
    ],
    ids=lambda settings: settings[0],
)
def test_whatever_is_converted_and_merged_has_no_fault(settings: list[str], tmp_path: Path) -> None:
    for seed in range(2):
        recording = cell(seed=seed, seconds=2.5, topic=RAW_TOPIC)
        del recording.images[30:40]
        recording.write(tmp_path / "src" / f"bag{seed}")
    shards, source = [tmp_path / "one", tmp_path / "two"], open_source(str(tmp_path / "src"), True)
    for number, shard in enumerate(shards, 1):
        convert(source, shard, load(Config, None, settings), Options(0, shard=(number, 2)))
        assert not check(shard).faults
    merge(shards, tmp_path / "both")
    report = check(tmp_path / "both")
    assert not report.faults
    assert report.frames == sum(check(shard).frames for shard in shards)


def test_long_episodes_and_large_images_are_measured_by_the_same_sample(tmp_path: Path) -> None:
    cell(seconds=5, size=(32, 320)).write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out")
    report = check(tmp_path / "out")
    assert not report.faults
    counted = json.loads((tmp_path / "out" / STATS).read_text())[COLOR]["count"]
    assert counted == [100] < [report.frames]


def edit_json(name: str, change: Callable[[Any], object]) -> Change:
    """Change a JSON file in place, or replace it by what `change` returns."""

    def edit(root: Path) -> None:
        tree = json.loads((root / name).read_text())
        (root / name).write_text(json.dumps(change(tree) or tree))

    return edit


def put(*keys: Any, value: Any) -> Callable[[Any], None]:
    """Set one value in a JSON tree."""

    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return change


def drop(*keys: Any) -> Callable[[Any], None]:
    """Remove one key from a JSON tree."""

    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        del tree[keys[-1]]

    return change


def edit_table(name: str, change: Callable[[pa.Table], pa.Table]) -> Change:
    """Write a parquet file anew; `change` gets and returns its table."""
    return lambda root: pq.write_table(change(pq.read_table(root / name, partitioning=None)), root / name)


def cells(column: str, row: int, value: Any, kind: pa.DataType | None = None) -> Callable[[pa.Table], pa.Table]:
    """Set one cell, or the type of the column when `row` is -1."""

    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(column)
        values = table.column(column).to_pylist()
        if row >= 0:
            values[row] = value(values[row]) if callable(value) else value
        new = pa.array(values, kind or table.schema.field(place).type)
        return table.set_column(place, pa.field(column, new.type), new)

    return change


def only(*names: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns(list(names))


def extra(table: pa.Table) -> pa.Table:
    return table.append_column("grip", pa.array(np.zeros(len(table), np.float32)))


def reorder(table: pa.Table) -> pa.Table:
    return table.select([*table.column_names[1:], table.column_names[0]])


def image(height: int, width: int) -> dict[str, Any]:
    return {"bytes": cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1].tobytes(), "path": None}


def hit(cell: dict[str, Any]) -> dict[str, Any]:
    """Flip bytes in the middle of an image's data."""
    data = bytearray(cell["bytes"])
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    return cell | {"bytes": bytes(data)}


def rename(old: str, new: str) -> Change:
    def change(root: Path) -> None:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)

    return change


def write(name: str, data: bytes = b"") -> Change:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)

    return change


def film(frames: int = 42, height: int = 64, width: int = 96, fps: int = 30) -> Change:
    """Replace the video by another one."""

    def change(root: Path) -> None:
        with av.open(str(root / VIDEO), "w") as container:
            stream = container.add_stream("mpeg4", rate=fps)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for _ in range(frames):
                still = av.VideoFrame.from_ndarray(np.full((height, width, 3), 120, np.uint8), format="rgb24")
                container.mux(stream.encode(still))
            container.mux(stream.encode())

    return change


def statistic(*keys: Any, by: float) -> Callable[[Any], None]:
    """Move one number of a statistic."""

    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] += by

    return change


def one_more(value: float) -> float:
    """Return the next float32."""
    return float(np.nextafter(np.float32(value), np.float32(1)))


def shifted(values: list[float]) -> list[float]:
    return [value + 0.01 for value in values]


FEATURES = ("features", "action")

# what it is called, which dataset, what is changed, the file that must be named, and words of the line
CORRUPTIONS: list[tuple[str, str, Change, str, str]] = [
    (
        "version",
        "image",
        edit_json(INFO, put("codebase_version", value="v2.1")),
        INFO,
        "codebase_version: found 'v2.1'",
    ),
    ("fps", "image", edit_json(INFO, put("fps", value=0)), INFO, "fps: found 0"),
    ("no json", "image", write(INFO, b"{"), INFO, "cannot be read as JSON"),
    ("episodes", "image", edit_json(INFO, put("total_episodes", value=3)), EPISODES, "total_episodes"),
    ("frames", "image", edit_json(INFO, put("total_frames", value=41)), DATA, "found 42, expected 41"),
    ("no tasks", "image", edit_json(INFO, put("total_tasks", value=0)), INFO, "total_tasks: found 0"),
    ("tasks", "image", edit_json(INFO, put("total_tasks", value=1)), TASKS, "number of tasks"),
    ("chunks", "image", edit_json(INFO, put("chunks_size", value=2000)), INFO, "chunks_size: found 2000"),
    ("data path", "image", edit_json(INFO, put("data_path", value="data/{file}.parquet")), INFO, "data_path"),
    ("video path", "video", edit_json(INFO, put("video_path", value=None)), INFO, "video_path: found None"),
    ("robot", "image", edit_json(INFO, put("robot_type", value=10)), INFO, "robot_type: found 10"),
    (
        "splits",
        "image",
        edit_json(INFO, put("splits", "train", value="0:3")),
        INFO,
        "expected to cover the episodes 0:2",
    ),
    ("dtype", "image", edit_json(INFO, put(*FEATURES, "dtype", value="float")), INFO, "features.action.dtype"),
    ("shape", "image", edit_json(INFO, put(*FEATURES, "shape", value=[])), INFO, "features.action.shape"),
    ("names", "image", edit_json(INFO, put(*FEATURES, "names", value=["a"])), INFO, "found 1 names, expected 6"),
    ("same names", "image", edit_json(INFO, put(*FEATURES, "names", value=["a"] * 6)), INFO, "different names"),
    ("slash", "image", edit_json(INFO, put("features", "a/b", value={})), INFO, "may not contain '/'"),
    ("no index", "image", edit_json(INFO, drop("features", "index")), INFO, "features.index is missing"),
    ("index type", "image", edit_json(INFO, put("features", "index", "dtype", value="int32")), INFO, "features.index"),
    (
        "channels first",
        "image",
        edit_json(INFO, put("features", COLOR, "shape", value=[3, 64, 96])),
        DATA,
        "expected 3x64",
    ),
    (
        "axis names",
        "image",
        edit_json(INFO, put("features", COLOR, "names", value=["height", "width", "rgb"])),
        INFO,
        "named",
    ),
    ("video facts", "video", edit_json(INFO, put("features", COLOR, "info", "video.fps", value=15)), INFO, "video.fps"),
    ("undeclared", "image", edit_table(DATA, extra), DATA, "columns grip are in no feature"),
    ("missing column", "image", edit_table(DATA, only("action")), DATA, "columns action are missing"),
    ("column order", "image", edit_table(DATA, reorder), DATA, "found the order"),
    ("int32", "image", edit_table(DATA, cells("index", -1, None, pa.int32())), DATA, "type of index: found int32"),
    (
        "doubles",
        "image",
        edit_table(DATA, cells("action", -1, None, pa.list_(pa.float64(), 6))),
        DATA,
        "type of action",
    ),
    (
        "short row",
        "image",
        edit_table(DATA, cells("action", 5, [1.0], pa.list_(pa.float32()))),
        DATA,
        "row 5: action: found 1 values",
    ),
    ("null row", "image", edit_table(DATA, cells("action", 6, None)), DATA, "row 6: action is null"),
    ("null number", "image", edit_table(DATA, cells("frame_index", 7, None)), DATA, "row 7: frame_index is null"),
    ("nan", "image", edit_table(DATA, cells("action", 8, [NAN] * 6)), DATA, "row 8: action: found [nan"),
    ("swapped rows", "image", edit_table(DATA, lambda t: t.take([1, 0, *range(2, 42)])), DATA, "row 0: index: found 1"),
    (
        "lost row",
        "image",
        edit_table(DATA, lambda t: t.take([*range(30), *range(31, 42)])),
        DATA,
        "row 30: index: found 31",
    ),
    (
        "frame_index",
        "image",
        edit_table(DATA, cells("frame_index", 21, 2)),
        DATA,
        "row 21: frame_index: found 2, expected 1",
    ),
    ("episode_index", "image", edit_table(DATA, cells("episode_index", 20, 0)), DATA, "row 20: episode_index: found 0"),
    ("timestamp", "image", edit_table(DATA, cells("timestamp", 9, 0.3001)), DATA, "row 9: timestamp: found 0.300"),
    ("one ulp", "image", edit_table(DATA, cells("timestamp", 9, one_more)), DATA, "row 9: timestamp"),
    (
        "task_index",
        "image",
        edit_table(DATA, cells("task_index", 4, 2)),
        DATA,
        "row 4: task_index: found 2, expected 0 to 1",
    ),
    ("other task", "image", edit_table(DATA, cells("task_index", 4, 1)), EPISODES, "tasks: found ['pick the part']"),
    (
        "no bytes",
        "image",
        edit_table(DATA, cells(COLOR, 3, {"bytes": None, "path": "a.png"})),
        DATA,
        "row 3: observation.images.color has no bytes",
    ),
    (
        "no image",
        "image",
        edit_table(DATA, cells(COLOR, 3, {"bytes": b"PNG", "path": None})),
        DATA,
        "row 3: observation.images.color",
    ),
    (
        "cut image",
        "image",
        edit_table(DATA, cells(COLOR, 3, lambda c: c | {"bytes": c["bytes"][:-300]})),
        DATA,
        "row 3",
    ),
    ("hit png", "image", edit_table(DATA, cells(COLOR, 3, hit)), DATA, "row 3"),
    ("hit jpeg", "ours", edit_table(SECOND, cells(COLOR, 3, hit)), SECOND, "row 3"),
    ("cut jpeg", "ours", edit_table(DATA, cells(COLOR, 4, lambda c: c | {"bytes": c["bytes"][:-40]})), DATA, "row 4"),
    (
        "small image",
        "image",
        edit_table(DATA, cells(COLOR, 3, image(32, 96))),
        DATA,
        "found an image of 32x96, expected 64x96",
    ),
    ("black image", "image", edit_table(DATA, cells(COLOR, 3, image(64, 96))), EPISODES, f"stats/{COLOR}: mean"),
    (
        "truncated",
        "image",
        lambda root: (root / DATA).write_bytes((root / DATA).read_bytes()[:-100]),
        DATA,
        "cannot be read",
    ),
    ("no data", "image", lambda root: (root / DATA).unlink(), "data", "holds no data file"),
    (
        "stray file",
        "image",
        write("data/chunk-000/.file-001.parquet.7.tmp"),
        "data/chunk-000/.file-001.parquet.7.tmp",
        "belong",
    ),
    (
        "file-1000",
        "ours",
        rename(SECOND, "data/chunk-000/file-1000.parquet"),
        "data/chunk-000/file-1000.parquet",
        "does not belong",
    ),
    (
        "file gap",
        "ours",
        rename(SECOND, "data/chunk-000/file-002.parquet"),
        "data/chunk-000/file-002.parquet",
        "chunk-000/file-001",
    ),
    (
        "swapped files",
        "ours",
        lambda root: [rename(DATA, "x")(root), rename(SECOND, DATA)(root), rename("x", SECOND)(root)],
        DATA,
        "row 0: index: found 45",
    ),
    ("left over", "image", write("images/a.png"), "images", "left over"),
    (
        "no task index",
        "image",
        edit_table(TASKS, lambda t: t.replace_schema_metadata(None)),
        TASKS,
        "row numbers as tasks",
    ),
    (
        "task order",
        "image",
        edit_table(TASKS, lambda t: t.take([1, 0])),
        TASKS,
        "task_index: found [1, 0], expected [0, 1]",
    ),
    ("one task twice", "image", edit_table(TASKS, cells("task", 1, "pick the part")), TASKS, "not all different"),
    ("no tasks file", "image", lambda root: (root / TASKS).unlink(), TASKS, "is missing"),
    ("length", "image", edit_table(EPISODES, cells("length", 0, 19)), EPISODES, "row 0: length: found 19"),
    (
        "bounds",
        "image",
        edit_table(EPISODES, cells("dataset_from_index", 1, 19)),
        EPISODES,
        "row 1: dataset_from_index: found 19, expected 20",
    ),
    (
        "episode number",
        "image",
        edit_table(EPISODES, cells("episode_index", 1, 2)),
        EPISODES,
        "row 1: episode_index: found 2",
    ),
    (
        "data file",
        "ours",
        edit_table(EPISODES, cells("data/file_index", 1, 0)),
        EPISODES,
        "row 1: rows 45 to 90 are said to lie in",
    ),
    ("no such file", "image", edit_table(EPISODES, cells("data/file_index", 1, 7)), EPISODES, "which is missing"),
    (
        "own place",
        "image",
        edit_table(EPISODES, cells("meta/episodes/file_index", 1, 1)),
        EPISODES,
        "row 1: meta/episodes",
    ),
    ("no bounds", "image", edit_table(EPISODES, only("length")), EPISODES, "columns length are missing"),
    (
        "task text",
        "image",
        edit_table(EPISODES, cells("tasks", 1, ["dance"])),
        EPISODES,
        "row 1: tasks: found ['dance']",
    ),
    ("no episodes", "image", lambda root: (root / EPISODES).unlink(), "meta/episodes", "holds no episodes"),
    ("no stats", "image", lambda root: (root / STATS).unlink(), STATS, "is missing"),
    ("stats feature", "image", edit_json(STATS, drop("action")), STATS, "action: found None"),
    (
        "stats shape",
        "image",
        edit_json(STATS, put(COLOR, "mean", value=[0.5, 0.5, 0.5])),
        STATS,
        f"{COLOR}: mean: found",
    ),
    ("mean", "image", edit_json(STATS, statistic("action", "mean", 2, by=1e-4)), STATS, "action: mean: found"),
    ("max", "image", edit_json(STATS, statistic("action", "max", 2, by=1e-5)), STATS, "action: max: found"),
    (
        "std",
        "image",
        edit_json(STATS, statistic("observation.state", "std", 0, by=1e-4)),
        STATS,
        "observation.state: std",
    ),
    (
        "count",
        "image",
        edit_json(STATS, statistic("action", "count", 0, by=1)),
        STATS,
        "action: count: found [43], expected [42]",
    ),
    ("quantile", "image", edit_json(STATS, statistic("action", "q50", 2, by=0.06)), STATS, "action: q50: found"),
    (
        "image mean",
        "image",
        edit_json(STATS, statistic(COLOR, "mean", 1, 0, 0, by=0.01)),
        STATS,
        f"{COLOR}: mean: found",
    ),
    (
        "video mean",
        "video",
        edit_json(STATS, statistic(COLOR, "mean", 1, 0, 0, by=0.1)),
        STATS,
        f"{COLOR}: mean: found",
    ),
    (
        "episode mean",
        "image",
        edit_table(EPISODES, cells("stats/action/mean", 1, shifted)),
        EPISODES,
        "row 1: stats/action: mean",
    ),
    (
        "episode q10",
        "image",
        edit_table(EPISODES, cells("stats/observation.state/q10", 1, lambda v: [0.9] * 6)),
        EPISODES,
        "q10: found",
    ),
    ("no video", "video", lambda root: (root / VIDEO).unlink(), VIDEO, "is missing; episode 0 needs it"),
    (
        "cut video",
        "video",
        lambda root: (root / VIDEO).write_bytes((root / VIDEO).read_bytes()[:2000]),
        VIDEO,
        "cannot be decoded",
    ),
    ("lost frames", "video", film(40), VIDEO, "number of frames (the rows of its episodes): found 40, expected 42"),
    ("video size", "video", film(height=32), VIDEO, "found frames of shape (32, 96, 3), expected (64, 96, 3)"),
    ("video rate", "video", film(fps=25), VIDEO, "row 1: found a frame at 0.040000 s, expected it at 0.033333 s"),
    ("other video", "video", film(), EPISODES, f"stats/{COLOR}: "),
    (
        "from",
        "video",
        edit_table(EPISODES, cells(f"videos/{COLOR}/from_timestamp", 1, 0.7)),
        EPISODES,
        "row 1: videos/observation.images.color/from_timestamp: found 0.7",
    ),
    (
        "to",
        "video",
        edit_table(EPISODES, cells(f"videos/{COLOR}/to_timestamp", 1, 1.3667)),
        EPISODES,
        "row 1: videos/observation.images.color/to_timestamp",
    ),
    (
        "stray video",
        "video",
        write("videos/observation.images.wrist/chunk-000/file-000.mp4"),
        "videos/observation.images.wrist",
        "belongs to no video feature",
    ),
    ("actions", "ours", edit_table(DATA, cells("action", 12, [0.0] * 6)), DATA, "row 12: action: found [0.0"),
    ("no record", "ours", lambda root: (root / RECORD).unlink(), RECORD, "meta/conversion.json is missing"),
    (
        "record episodes",
        "ours",
        edit_json(RECORD, put("bags", 1, "episodes", value=[])),
        RECORD,
        "episodes: found [0], expected [0, 1]",
    ),
    (
        "record frames",
        "ours",
        edit_json(RECORD, put("bags", 1, "episodes", 0, "frames", value=44)),
        RECORD,
        "episode 1: frames: found 44",
    ),
    (
        "record held",
        "ours",
        edit_json(RECORD, put("bags", 0, "episodes", 0, "held", "color", value=30)),
        RECORD,
        "held.color: found 30",
    ),
    ("record action", "ours", edit_json(RECORD, put("action", "wrapped", value=True)), RECORD, "action (info.json"),
    ("no trace", "ours", lambda root: (root / SYNC).unlink(), SYNC, "is missing"),
    (
        "stray trace",
        "ours",
        write("meta/sync/chunk-000/file-002.parquet"),
        "meta/sync/chunk-000/file-002.parquet",
        "no episode",
    ),
    ("tick", "ours", edit_table(SYNC, cells("tick_ns", 9, lambda ns: ns + 2)), SYNC, "row 9: tick_ns"),
    ("trace back", "ours", edit_table(SYNC, cells("color.message", 9, 0)), SYNC, "row 9: color.message: found 0 after"),
    ("trace short", "ours", edit_table(SYNC, lambda t: t.slice(0, 44)), SYNC, "rows (frames of the episode): found 44"),
]


@pytest.mark.parametrize(
    ("kind", "change", "file", "words"), [pytest.param(*rest, id=name) for name, *rest in CORRUPTIONS]
)
def test_a_corruption_is_found_and_named(
    kind: str, change: Change, file: str, words: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    root = shutil.copytree(sources[kind], tmp_path / "dataset")
    change(root)
    faults = check(root).faults
    assert any(fault.file == file and words in str(fault) for fault in faults), "\n".join(map(str, faults))


def test_what_is_no_fault_is_not_called_one(image_dataset: Path) -> None:
    edit_json(INFO, put("fps", value=30.0))(image_dataset)
    edit_json(INFO, put("made_by", value="hand"))(image_dataset)
    edit_json(INFO, put(*FEATURES, "names", value={"motors": list("abcdef")}))(image_dataset)
    for key in ("chunks_size", "robot_type", "splits"):
        edit_json(INFO, drop(key))(image_dataset)
    edit_table(DATA, cells("action", -1, None, pa.list_(pa.float32())))(image_dataset)
    edit_table(DATA, cells("timestamp", -1, None, pa.float64()))(image_dataset)
    edit_table(DATA, cells(COLOR, 3, lambda cell: cell | {"path": None}))(image_dataset)
    names = [n for n in pq.read_schema(image_dataset / EPISODES).names if n.startswith("stats/") or n == "tasks"]
    edit_table(EPISODES, only(*names))(image_dataset)
    assert not check(image_dataset).faults


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no dataset in .*: meta/info\.json is missing"):
        check(tmp_path)


def test_many_faults_of_one_kind_are_one_line(image_dataset: Path) -> None:
    edit_table(DATA, cells("frame_index", -1, None))(image_dataset)
    edit_json(INFO, put("fps", value=15))(image_dataset)
    lines = [str(fault) for fault in check(image_dataset).faults if "timestamp" in fault.text and fault.file == DATA]
    assert len(lines) == 1
    assert lines[0].endswith("(and 39 more rows)")


def test_the_report_ends_with_a_summary(image_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_report(check(image_dataset)) == 0
    assert capsys.readouterr().out == "5 files, 42 frames, 42 images: no fault found\n"
    edit_json(INFO, put("robot_type", value=1))(image_dataset)
    assert print_report(check(image_dataset)) == 2
    assert capsys.readouterr().out.splitlines() == [
        "meta/info.json: robot_type: found 1, expected text or null",
        "5 files, 42 frames, 42 images: 1 fault found",
    ]


def test_the_command_says_so_by_its_exit_code(image_dataset: Path) -> None:
    edit_json(INFO, put("robot_type", value=1))(image_dataset)
    done = run_module("stage1_convert", "--check", image_dataset)
    assert done.returncode == 2
    assert "1 fault found" in done.stdout
