"""Valid datasets have no findings; every single corruption is found and named by its file."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from common.cli.command import UserError
from common.cli.config import load
from common.lerobot.dataset import Dataset
from common.lerobot.frame_cache import open_frames
from stage1_convert.__main__ import main
from stage1_convert.check import check, print_report
from stage1_convert.config import Config
from stage1_convert.pipeline.convert import Options, convert
from stage1_convert.pipeline.merge import merge
from stage1_convert.sources import open_source
from stage2_train.batches import FrameStore
from stage2_train.checkpoints.initial import initial_checkpoint
from stage2_train.config import TrainConfig
from stage2_train.train import open_dataset
from tests.common.lerobot.foreign import change_info, rename_columns
from tests.conftest import GOLDEN
from tests.stage1_convert.check.corrupt import COLOR, FILES, corrupt
from tests.stage1_convert.conversion import run
from tests.stage1_convert.recording import RAW_TOPIC, cell
from tests.stage2_train.tiny import TINY


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


@pytest.mark.parametrize("kind", ["ours", "image", "video"])
def test_a_whole_dataset_has_no_findings(kind: str, sources: dict[str, Path]) -> None:
    report = check(sources[kind])
    assert not report.findings
    assert report.is_usable
    assert report.frames == report.images == (88 if kind == "ours" else 42)


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
def test_whatever_is_converted_and_merged_has_no_findings(settings: list[str], tmp_path: Path) -> None:
    for seed in range(2):
        recording = cell(seed=seed, seconds=2.5, topic=RAW_TOPIC)
        del recording.images[30:40]
        recording.write(tmp_path / "src" / f"bag{seed}")
    shards, source = [tmp_path / "one", tmp_path / "two"], open_source(str(tmp_path / "src"), True)
    for number, shard in enumerate(shards, 1):
        convert(source, shard, load(Config, None, settings), Options(0, shard=(number, 2)))
        assert not check(shard).findings
    merge(shards, tmp_path / "both")
    report = check(tmp_path / "both")
    assert not report.findings
    assert report.frames == sum(check(shard).frames for shard in shards)


CORRUPTIONS: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "corruptions.yaml").read_text().replace("COLOR", COLOR)
)


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CORRUPTIONS.items()])
def test_a_corruption_is_found_and_named(case: dict[str, Any], sources: dict[str, Path], tmp_path: Path) -> None:
    root = shutil.copytree(sources[case["in"]], tmp_path / "dataset")
    corrupt(root, case)
    report = check(root)
    assert any(case["finding"] in str(finding) for finding in report.findings), "\n".join(map(str, report.findings))
    assert report.is_usable == training_takes(root, tmp_path / "cache")


def training_takes(root: Path, cache: Path) -> bool:
    """Whether a training opens the dataset, to the last image."""
    settings = [*TINY, f"data.dataset={root}"]
    try:
        config = load(TrainConfig, None, [*settings, f"data.fps={Dataset.open(root).fps}"])
        dataset, _, held_out = open_dataset(config)
        initial_checkpoint(config, dataset, held_out)
        FrameStore(dataset, open_frames(dataset, cache, "mmap"))
    except UserError:
        return False
    return True


def test_what_lerobot_accepts_is_no_finding(image_dataset: Path) -> None:
    names = [
        n for n in pq.read_schema(image_dataset / FILES["episodes"]).names if n.startswith("stats/") or n == "tasks"
    ]
    edits: list[dict[str, Any]] = [
        {"json": "info", "set": ["fps"], "to": 30.0},
        {"json": "info", "set": ["made_by"], "to": "hand"},
        {"json": "info", "set": ["features", "action", "names"], "to": {"motors": list("abcdef")}},
        *({"json": "info", "drop": [key]} for key in ("chunks_size", "robot_type", "splits")),
        {"table": "data", "column": "action", "type": "list"},
        {"table": "data", "column": "timestamp", "type": "double"},
        {"table": "data", "column": COLOR, "row": 3, "path": None},
        {"table": "episodes", "without": names},
    ]
    for edit in edits:
        corrupt(image_dataset, edit)
    assert not check(image_dataset).findings


def test_names_and_rounding_that_lerobot_takes_are_no_findings(
    image_dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corrupt(image_dataset, {"json": "info", "set": ["features", "action", "names"], "to": ["pos"]})
    path = image_dataset / FILES["data"]
    table = pq.read_table(path)
    rows = table.column("observation.state").to_pylist()
    place = table.schema.get_field_index("observation.state")
    far = [[1000.0 + 1e-3 * (row % 2), *values[1:]] for row, values in enumerate(rows)]
    pq.write_table(table.set_column(place, "observation.state", pa.array(far, table.schema.field(place).type)), path)
    stats_path = image_dataset / "meta" / "stats.json"
    stats = json.loads(stats_path.read_text())
    column = np.array(far, np.float32)[:, 0]
    rounded = float(column.astype(float).var() + 2**-22 * column.max() ** 2) ** 0.5  # two float32 roundings
    values = {"min": column.min(), "max": column.max(), "mean": column.astype(float).mean()}
    for name, value in {**values, "std": rounded}.items():
        stats["observation.state"][name][0] = float(value)
    stats_path.write_text(json.dumps(stats))
    assert not check(image_dataset).findings
    (told,) = caplog.messages
    assert "meta/info.json declares unusual names; action: 'pos' stands for 6 values" in told


def test_statistics_that_an_editing_tool_left_stale_are_one_warning(
    image_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("index", "episode_index"):
        for name in ("min", "max", "mean"):
            corrupt(image_dataset, {"json": "stats", "add": [key, name, 0], "by": 50})
    assert print_report(check(image_dataset)) == 0
    warning, summary = capsys.readouterr().out.splitlines()
    assert warning.startswith(
        "warning: meta/stats.json: 6 statistics of episode_index, index are stale, such as episode_"
    )
    assert summary == "42 frames, 42 images: 1 warning; usable for training: yes"


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no dataset in .*: meta/info\.json is missing"):
        check(tmp_path)


def test_features_of_other_names_and_cameras_of_other_kinds_are_checked_as_they_are_trained_on(
    image_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"observation.state": "state", "action": "actions", COLOR: "image"}
    rename_columns(image_dataset, keys)
    (finding,) = check(image_dataset).findings
    assert "--rename state=observation.state actions=action image=observation.images.image" in finding.text
    names = {key: name for name, key in keys.items()}
    report = check(image_dataset, names)
    assert not report.findings
    assert report.is_usable
    change_info(image_dataset, lambda info: info["features"]["image"].update(shape=[64, 96, 1]))
    assert not check(image_dataset, names).is_usable
    report = check(image_dataset, names, use_cameras=[])
    assert report.is_usable
    assert report.images == 0
    flags = ["--use-cameras", "--rename", *(f"{k}={n}" for k, n in names.items())]
    assert main(["--check", str(image_dataset), *flags]) == 0
    assert capsys.readouterr().out == "42 frames, 0 images: no findings; usable for training: yes\n"


def test_many_findings_of_one_kind_are_one_line(image_dataset: Path) -> None:
    corrupt(image_dataset, {"json": "info", "set": ["fps"], "to": 15})
    (finding,) = [finding for finding in check(image_dataset).findings if "timestamp: found" in finding.text]
    assert str(finding).startswith("fault: data/chunk-000/file-000.parquet: row 1: timestamp: found 0.033")
    assert str(finding).endswith("(and 39 more rows)")


def test_faults_come_before_warnings_and_then_the_verdict(
    converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(converted, tmp_path / "dataset")
    corrupt(root, {"write": "images/left.png"})
    assert print_report(check(root)) == 0
    assert capsys.readouterr().out.endswith("1 warning; usable for training: yes\n")
    corrupt(root, {"table": "data", "column": "action", "row": 3, "to": None})
    assert main(["--check", str(root)]) == 2
    fault, warning, summary = capsys.readouterr().out.splitlines()
    assert fault.startswith("fault: data/chunk-000/file-000.parquet: row 3: action is null")
    assert warning.startswith("warning: images/")
    assert summary == "88 frames, 88 images: 1 fault, 1 warning; usable for training: no"
