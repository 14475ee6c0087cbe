"""A damaged dataset or checkpoint gives the right result or one line: no traceback, no hang, and nothing else in silence."""

import shutil
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from common.checkpoint import Checkpoint
from common.command import UserError, one_line
from common.dataset import Dataset
from common.files import new_folder
from common.worker import Limits, each
from tests.promises.damage import damage
from tests.promises.harness import loops

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
    pictures = [
        int(picture.sum())
        for episode in dataset.episodes
        for camera in dataset.cameras
        for picture in dataset.pictures(episode, camera)
    ]
    stats = {key: {name: value.tolist() for name, value in of.items()} for key, of in dataset.stats.items()}
    return repr((dataset.fps, dataset.features, dataset.episodes, sums, pictures, stats, dataset.action_meaning))


def read_checkpoint(folder: Path) -> str:
    checkpoint = Checkpoint.read(folder)
    weights = {key: float(value.double().abs().sum()) for key, value in checkpoint.network.state_dict().items()}
    statistics = {key: value.tolist() for key, value in checkpoint.normaliser.statistics().items()}
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
    whole, *found = each(attempt, [Try(folder, file, seed) for seed in range(-1, count)], 2, lambda _: LIMITS)
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
    with pytest.raises(UserError, match=r"model\.safetensors is not what was written"):
        Checkpoint.read(folder)
