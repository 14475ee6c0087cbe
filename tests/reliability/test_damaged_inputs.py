"""A damaged dataset or checkpoint gives the right result or one line: no traceback, no hang, and nothing else in silence."""

import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from common.act.checkpoint import Checkpoint
from common.act.records import Robot
from common.cli.command import UserError, one_line
from common.lerobot.dataset import Dataset
from common.storage.files import new_folder
from common.storage.worker import Limits, map_isolated
from stage1_convert.__main__ import main as convert_main
from stage2_train.__main__ import main as train_main
from stage3_eval.__main__ import main as evaluate_main
from tests.conftest import TINY_TRAINING
from tests.reliability.damage import damage, damage_json
from tests.reliability.harness import loops

LIMITS = Limits(1 << 30, 300.0)
DATASET_FILES = (
    "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet",
    "data/chunk-000/file-000.parquet",
)  # fmt: skip
STATISTICS_FILES = (
    "policy_preprocessor_step_3_normalizer_processor.safetensors",
    "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
)
CHECKPOINT_FILES = (
    "config.json", "train_config.json", "policy_preprocessor.json", "policy_postprocessor.json", "model.safetensors",
)  # fmt: skip
# Seeds that once found a bug: statistics that are no numbers, sizes that are none or true, names that do not fit or are
# none, columns that are not declared, steps without settings, types that are none, a file name that is too long, infinity.
FOUND = {
    ("train", "meta/stats.json"): (1, 9),
    ("train", "meta/info.json"): (93, 111, 129, 147),
    ("finetune", "config.json"): (7, 101, 157),
    ("finetune", "policy_preprocessor.json"): (19, 39, 41, 47, 55),
    ("finetune", "policy_postprocessor.json"): (113,),
    ("evaluate", "meta/info.json"): (3, 5, 9, 11, 33, 87),
    ("evaluate", "train_config.json"): (19, 53, 93),
}


def read_dataset(home: Path) -> str:
    dataset = Dataset.open(home / "dataset")
    columns = dataset.columns(["observation.state", "action", "timestamp"])
    sums = [float(np.abs(values).sum()) for values in columns.values()]
    images = [
        int(image.sum())
        for episode in dataset.episodes
        for camera in dataset.cameras
        for image in dataset.images(episode, camera)
    ]
    stats = {key: {name: value.tolist() for name, value in values.items()} for key, values in dataset.stats.items()}
    return repr((dataset.fps, dataset.features, dataset.episodes, sums, images, stats, dataset.action_meaning))


def read_checkpoint(home: Path) -> str:
    checkpoint = Checkpoint.read(home / "checkpoint")
    weights = {key: float(value.double().abs().sum()) for key, value in checkpoint.network.state_dict().items()}
    statistics = {key: value.tolist() for key, value in checkpoint.normalizer.statistics().items()}
    return repr((weights, statistics, checkpoint.act, checkpoint.shape, checkpoint.robot, checkpoint.rename_map))


def run(main: Callable[[Sequence[str]], int], home: Path, *arguments: str) -> str:
    """Run a command in this process; exit code 2 is a refusal."""
    code = main([argument.format(home=home) for argument in arguments])
    if code == 2:
        raise UserError("exit code 2")
    assert code == 0
    return ""


TRAIN = (
    "--dry-run", "--override", "data.dataset={home}/dataset", "data.cache_dir={home}/cache", "training.output_dir={home}/out",
)  # fmt: skip
FINETUNE = ("model.init_from={home}/checkpoint", "training.device=cpu", "training.batch_size=2")
EVALUATE = (
    "--checkpoint", "{home}/checkpoint", "--dataset", "{home}/dataset", "--out", "{home}/eval", "--episodes", "0",
    "--device", "cpu", "--latency-steps", "0", "--action-meaning", "delta",
)  # fmt: skip
READERS: dict[str, Callable[[Path], str]] = {
    "dataset": read_dataset,
    "checkpoint": read_checkpoint,
    "check": lambda home: run(convert_main, home, "--check", "{home}/dataset"),
    "train": lambda home: run(train_main, home, *TRAIN, *TINY_TRAINING),
    "finetune": lambda home: run(train_main, home, *TRAIN, *FINETUNE),
    "evaluate": lambda home: run(evaluate_main, home, *EVALUATE),
}


class Case(NamedTuple):
    """A dataset and a checkpoint of which one file is damaged, and what reads them; seed -1 damages nothing."""

    dataset: Path
    checkpoint: Path
    reader: str
    file: str
    seed: int


class Outcome(NamedTuple):
    """How reading ended, and a digest of everything that was read, or the error."""

    kind: str
    text: str


def attempt(case: Case) -> Outcome:
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
            return Outcome("read", READERS[case.reader](home))
        except UserError as error:
            return Outcome("refused", one_line(error))
        except Exception:
            return Outcome("CRASHED", traceback.format_exc())


def attempt_all(cases: Sequence[Case]) -> Counter[str]:
    """Fail on whatever is neither read nor refused, and count the others."""
    first = cases[0]._replace(seed=-1)
    intact, *outcomes = map_isolated(attempt, [first, *cases], 2, lambda _: LIMITS)
    assert isinstance(intact, Outcome)
    assert intact.kind == "read", intact
    counts: Counter[str] = Counter()
    broken = []
    for case, outcome in zip(cases, outcomes, strict=True):
        kind = "STOPPED" if isinstance(outcome, UserError) else outcome.kind
        if isinstance(outcome, Outcome) and kind == "read" and outcome.text != intact.text:
            kind = "a value changed"
        counts[kind] += 1
        if kind.isupper():
            broken.append(f"{case.file}, seed {case.seed}: {outcome}")
    assert not broken, "\n".join(broken)
    print(f"{first.reader}, {first.file}: {dict(counts)}")
    return counts


@pytest.mark.parametrize("file", [*DATASET_FILES[:2], *DATASET_FILES[3:]])
def test_a_damaged_dataset(file: str, image_dataset: Path, checkpoint: Path) -> None:
    seeds = range(loops(12, 300))
    assert attempt_all([Case(image_dataset, checkpoint, "dataset", file, seed) for seed in seeds])["refused"]


@pytest.mark.parametrize(
    "file", [*STATISTICS_FILES, *(file for file in CHECKPOINT_FILES if file != "train_config.json")]
)
def test_a_damaged_checkpoint(file: str, image_dataset: Path, act_tiny: Path) -> None:
    seeds = range(loops(12, 300))
    assert attempt_all([Case(image_dataset, act_tiny, "checkpoint", file, seed) for seed in seeds])["refused"]


def test_a_flipped_weight_of_a_training_of_ours_is_noticed(act_tiny: Path, tmp_path: Path) -> None:
    with new_folder(tmp_path / "checkpoint_000010") as folder:
        shutil.copytree(act_tiny, folder / "pretrained_model")
    folder = tmp_path / "checkpoint_000010" / "pretrained_model"
    Checkpoint.read(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-100] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"model\.safetensors is not what manifest.json says"):
        Checkpoint.read(folder)


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
        ("check", DATASET_FILES, 6),
        ("train", DATASET_FILES, 1),
        ("finetune", CHECKPOINT_FILES, 1),
        ("evaluate", (*DATASET_FILES, *CHECKPOINT_FILES), 1),
    ],
)
def test_a_command_on_damaged_files(
    reader: str, files: Iterable[str], short: int, image_dataset: Path, checkpoint: Path
) -> None:
    attempt_all(
        [
            Case(image_dataset, checkpoint, reader, file, seed)
            for file in files
            for seed in (*FOUND.get((reader, file), ()), *range(loops(short, 200)))
        ]
    )
