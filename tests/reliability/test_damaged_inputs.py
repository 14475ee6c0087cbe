"""A damaged dataset or checkpoint gives the right result or one line: no traceback, no hang, and nothing else in silence."""

import itertools
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from common.act.checkpoint import Checkpoint
from common.act.records import Robot
from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.storage.worker import Limits, map_isolated
from stage1_convert.__main__ import main
from tests.reliability.damage import damage, damage_json
from tests.reliability.harness import loops

LIMITS = Limits(1 << 30, 300.0)
DATASET_FILES = (
    "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet",
    "data/chunk-000/file-000.parquet",
)  # fmt: skip
CHECKPOINT_FILES = (
    "config.json", "train_config.json", "policy_preprocessor.json", "policy_postprocessor.json", "model.safetensors",
    "policy_preprocessor_step_3_normalizer_processor.safetensors",
    "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
)  # fmt: skip
# Seeds that once found a bug: statistics that are no numbers, sizes that are none or true, names that do not fit or are
# none, columns that are not declared, steps without settings, types that are none, a file name that is too long, infinity,
# layers without number.
FOUND = {
    ("dataset", "meta/stats.json"): (1, 9),
    ("dataset", "meta/info.json"): (3, 5, 9, 11, 33, 87, 93, 111, 129, 147),
    ("checkpoint", "config.json"): (7, 57, 101, 157),
    ("checkpoint", "train_config.json"): (19, 53, 93),
    ("checkpoint", "policy_preprocessor.json"): (19, 39, 41, 47, 55),
    ("checkpoint", "policy_postprocessor.json"): (113,),
}


def read_dataset(home: Path) -> None:
    dataset = Dataset.open(home / "dataset")
    assert dataset.stats
    dataset.columns(["observation.state", "action", "timestamp"])
    for episode, camera in itertools.product(dataset.episodes, dataset.cameras):
        list(dataset.images(episode, camera))


def check(home: Path) -> None:
    """Run the command in this process; exit code 2 is a refusal."""
    code = main(["--check", str(home / "dataset")])
    if code == 2:
        raise UserError("exit code 2")
    assert code == 0


READERS: dict[str, Callable[[Path], object]] = {
    "dataset": read_dataset,
    "checkpoint": lambda home: Checkpoint.read(home / "checkpoint"),
    "check": check,
}


class Case(NamedTuple):
    """A dataset and a checkpoint of which one file is damaged, and what reads them; seed -1 damages nothing."""

    dataset: Path
    checkpoint: Path
    reader: str
    file: str
    seed: int


def attempt(case: Case) -> str:
    """Return `read`, `refused`, or the traceback of a crash."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as text:
        home = Path(text)
        shutil.copytree(case.dataset, home / "dataset")
        shutil.copytree(case.checkpoint, home / "checkpoint")
        file = home / ("dataset" if case.file in DATASET_FILES else "checkpoint") / case.file
        if case.seed >= 0 and file.suffix == ".json" and case.seed % 2:
            damage_json(file, case.seed // 2)
        elif case.seed >= 0:
            damage(file, case.seed // 2 if file.suffix == ".json" else case.seed)
        try:
            READERS[case.reader](home)
        except UserError:
            return "refused"
        except Exception:
            return traceback.format_exc()
        return "read"


@pytest.fixture
def checkpoint(act_tiny: Path, image_dataset: Path, tmp_path: Path) -> Path:
    """A checkpoint with the whole record of a training of ours."""
    record = {
        "config": {"data": {"image_size": None, "episodes": None}, "training": {"seed": 0}},
        "dataset": {"fingerprint": "0", "episodes": 2, "frames": 42},
        "val_episodes": [1],
        "versions": {"torch": "2"},
        "git_commit": None,
    }
    read = Checkpoint.read(act_tiny)
    robot = Robot(Dataset.open(image_dataset).joint_names, 10, "delta", False)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    replace(read, train_config=record, robot=robot).write(folder)
    return folder


@pytest.mark.parametrize(
    ("reader", "files", "short"),
    [
        ("dataset", DATASET_FILES, 12),
        ("checkpoint", CHECKPOINT_FILES, 12),
        ("check", DATASET_FILES, 6),
    ],
)
def test_damaged_files_are_read_or_refused(
    reader: str, files: Iterable[str], short: int, image_dataset: Path, checkpoint: Path
) -> None:
    cases = [Case(image_dataset, checkpoint, reader, "", -1)]
    for file in files:
        seeds = (*FOUND.get((reader, file), ()), *range(loops(short, 200)))
        cases += [Case(image_dataset, checkpoint, reader, file, seed) for seed in seeds]
    intact, *outcomes = map_isolated(attempt, cases, 2, lambda _: LIMITS)
    assert intact == "read"
    ended = list(zip(cases[1:], outcomes, strict=True))
    broken = [
        f"{case.file}, seed {case.seed}: {outcome}" for case, outcome in ended if outcome not in ("read", "refused")
    ]
    assert not broken, "\n".join(broken)
    refused = {case.file for case, outcome in ended if outcome == "refused"}
    assert reader != "checkpoint" or refused >= {*files} - {"train_config.json"}
    assert reader != "dataset" or refused >= {*files} - {"meta/tasks.parquet"}
