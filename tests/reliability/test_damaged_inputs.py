"""A damaged dataset or checkpoint gives the right result or one line: no traceback, no hang, and nothing else in silence."""

import shutil
import tempfile
import traceback
from collections import Counter
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


class Try(NamedTuple):
    """A damaged copy of a folder to be read; seed -1 leaves it as it is."""

    folder: Path
    file: str
    seed: int


class Outcome(NamedTuple):
    """What reading gave: a digest of everything that was read, or the line, or the traceback."""

    done: str
    kind: str
    text: str


def read_dataset(folder: Path) -> str:
    dataset = Dataset.open(folder)
    columns = dataset.columns(["observation.state", "action", "timestamp"], folder / "cache")
    sums = [float(np.abs(values).sum()) for values in columns.values()]
    images = [
        int(image.sum())
        for episode in dataset.episodes
        for camera in dataset.cameras
        for image in dataset.images(episode, camera)
    ]
    stats = {key: {name: value.tolist() for name, value in of.items()} for key, of in dataset.stats.items()}
    return repr((dataset.fps, dataset.features, dataset.episodes, sums, images, stats, dataset.action_meaning))


def read_checkpoint(folder: Path) -> str:
    checkpoint = Checkpoint.read(folder)
    weights = {key: float(value.double().abs().sum()) for key, value in checkpoint.network.state_dict().items()}
    statistics = {key: value.tolist() for key, value in checkpoint.normalizer.statistics().items()}
    return repr((weights, statistics, checkpoint.act, checkpoint.shape, checkpoint.robot, checkpoint.rename_map))


def attempt(one: Try) -> Outcome:
    read = read_dataset if (one.folder / "meta").is_dir() else read_checkpoint
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as home:
        folder = Path(shutil.copytree(one.folder, Path(home, "copy")))
        done = damage(folder / one.file, one.seed) if one.seed >= 0 else "nothing"
        try:
            return Outcome(done, "read", read(folder))
        except UserError as error:
            return Outcome(done, "refused", one_line(error))
        except Exception:
            return Outcome(done, "CRASHED", traceback.format_exc())


def try_all(folder: Path, file: str, count: int) -> Counter[str]:
    """Damage a file in many ways; fail on whatever breaks the promise, and count the others."""
    whole, *found = map_isolated(attempt, [Try(folder, file, seed) for seed in range(-1, count)], 2, lambda _: LIMITS)
    assert isinstance(whole, Outcome)
    assert whole.kind == "read", whole
    figures: Counter[str] = Counter()
    broken = []
    for seed, one in enumerate(found):
        kind = "STOPPED" if isinstance(one, UserError) else one.kind
        if isinstance(one, Outcome) and kind == "read" and one.text != whole.text:
            kind = "a value changed"
        figures[kind] += 1
        if kind.isupper():
            broken.append(f"{file}, seed {seed}: {one}")
    assert not broken, "\n".join(broken)
    print(f"{file}: {dict(figures)}")
    return figures


@pytest.mark.parametrize(
    "file",
    [
        "meta/info.json",
        "meta/stats.json",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
    ],
)
def test_a_damaged_dataset(file: str, image_dataset: Path) -> None:
    assert try_all(image_dataset, file, loops(12, 300))["refused"]


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "model.safetensors",
        "policy_preprocessor.json",
        "policy_preprocessor_step_3_normalizer_processor.safetensors",
        "policy_postprocessor.json",
        "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
    ],
)
def test_a_damaged_checkpoint(file: str, act_tiny: Path) -> None:
    assert try_all(act_tiny, file, loops(12, 300))["refused"]


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


# What a robot's lab has lying about: metadata and parquet of a dataset, settings of a checkpoint, damaged by bytes or by value.
DATASET_FILES = (
    "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet",
    "data/chunk-000/file-000.parquet",
)  # fmt: skip
CHECKPOINT_FILES = (
    "config.json", "train_config.json", "policy_preprocessor.json", "policy_postprocessor.json", "model.safetensors",
)  # fmt: skip


class Commanded(NamedTuple):
    """A dataset and a checkpoint of which one file is damaged, to be given to a command; seed -1 leaves it as it is."""

    dataset: Path
    checkpoint: Path
    command: str
    file: str
    seed: int


def command(one: Commanded) -> Outcome:
    """Give damaged copies to a command in this process; only a UserError may leave it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as text:
        home = Path(text)
        shutil.copytree(one.dataset, home / "dataset")
        shutil.copytree(one.checkpoint, home / "checkpoint")
        file = home / ("dataset" if one.file in DATASET_FILES else "checkpoint") / one.file
        done = "nothing"
        if one.seed >= 0:
            by_value = file.suffix == ".json" and one.seed % 2
            done = damage_json(file, one.seed // 2) if by_value else damage(file, one.seed // 2)
        try:
            main, arguments = COMMANDS[one.command]
            code = main([argument.format(home=home) for argument in arguments])
        except UserError as error:
            return Outcome(done, "refused", one_line(error))
        except Exception:
            return Outcome(done, "CRASHED", traceback.format_exc())
        return Outcome(done, "read" if code == 0 else "refused" if code == 2 else f"CODE {code}", "")


# Seeds that once found a fault: statistics that are no numbers, sizes that are none or true, names that do not fit or are
# none, columns that are not declared, steps without settings, types that are none, a file's name that is too long, infinity.
FOUND = {
    ("train", "meta/stats.json"): (1, 9),
    ("train", "meta/info.json"): (93, 111, 129, 147),
    ("finetune", "config.json"): (7, 101, 157),
    ("finetune", "policy_preprocessor.json"): (19, 39, 41, 47, 55),
    ("finetune", "policy_postprocessor.json"): (113,),
    ("evaluate", "meta/info.json"): (3, 5, 9, 11, 33, 87),
    ("evaluate", "train_config.json"): (19, 53, 93),
}
TRAIN = [
    "--dry-run", "--override", "data.dataset={home}/dataset", "data.cache_dir={home}/cache", "training.output_dir={home}/out",
]  # fmt: skip
EVALUATE = [
    "--checkpoint", "{home}/checkpoint", "--dataset", "{home}/dataset", "--out", "{home}/eval", "--episodes", "0",
    "--device", "cpu", "--latency-steps", "0", "--action-meaning", "delta",
]  # fmt: skip
COMMANDS = {
    "check": (convert_main, ["--check", "{home}/dataset"]),
    "train": (train_main, [*TRAIN, *TINY_TRAINING]),
    "finetune": (
        train_main, [*TRAIN, "model.init_from={home}/checkpoint", "training.device=cpu", "training.batch_size=2"]
    ),
    "evaluate": (evaluate_main, EVALUATE),
}  # fmt: skip


@pytest.fixture
def checkpoint(act_tiny: Path, image_dataset: Path, tmp_path: Path) -> Path:
    """A checkpoint with all that a training of ours says about itself."""
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
    ("name", "files", "short"),
    [
        ("check", DATASET_FILES, 6),
        ("train", DATASET_FILES, 1),
        ("finetune", CHECKPOINT_FILES, 1),
        ("evaluate", (*DATASET_FILES, *CHECKPOINT_FILES), 1),
    ],
)
def test_a_command_on_what_is_damaged(
    name: str, files: tuple[str, ...], short: int, image_dataset: Path, checkpoint: Path
) -> None:
    tries = [
        Commanded(image_dataset, checkpoint, name, file, seed)
        for file in files
        for seed in (*FOUND.get((name, file), ()), *range(loops(short, 200)))
    ]
    whole, *found = map_isolated(command, [tries[0]._replace(seed=-1), *tries], 2, lambda _: LIMITS)
    assert isinstance(whole, Outcome)
    assert whole.kind == "read", whole
    kinds = ["STOPPED" if isinstance(one, UserError) else one.kind for one in found]
    print(f"{name}: {dict(Counter(kinds))}")
    broken = [
        f"{one.file}, seed {one.seed}: {how}"
        for one, how, kind in zip(tries, found, kinds, strict=True)
        if kind.isupper()
    ]
    assert not broken, "\n".join(broken)
