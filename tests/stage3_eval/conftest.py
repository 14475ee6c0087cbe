"""A tiny checkpoint for the golden datasets, untrained: its predictions are arbitrary and always the same.

And three small runs on bags of the simulated cell, trained for real.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from common.act.checkpoint import Checkpoint, PolicyShape, new_network
from common.act.config import ActConfig
from common.act.normalization import Normalizer
from common.act.records import Robot
from common.lerobot.dataset import Dataset
from common.lerobot.metadata import ACTION, STATE, image_key
from tests.conftest import GOLDEN, TINY_TRAINING, SharedFolders

MAPPING = {"STATE": "MEAN_STD", "ACTION": "MEAN_STD", "VISUAL": "MEAN_STD"}
CONFIG = ActConfig(
    chunk_size=10, dim_model=32, n_heads=4, dim_feedforward=64, n_encoder_layers=1, n_vae_encoder_layers=1, latent_dim=8
)
WriteCheckpoint = Callable[..., Path]
RATES = {"slow": 1e-6, "middle": 1e-4, "fast": 3e-3}


class Sweep(NamedTuple):
    """A dataset of three episodes, one of them held out in training, and runs that differ in their learning rate."""

    dataset: Path
    runs: dict[str, Path]


def tiny_checkpoint(dataset: Dataset, action_meaning: str | None = "delta") -> Checkpoint:
    shape = PolicyShape(dataset.features[STATE].shape[0], dataset.features[ACTION].shape[0], dataset.cameras)
    statistics = {
        f"{key}.{name}": torch.as_tensor(dataset.stats[key][name]).float()
        for key in (STATE, ACTION, *map(image_key, dataset.cameras))
        for name in ("mean", "std")
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = new_network(CONFIG, shape)
    robot = Robot(dataset.joint_names, dataset.fps, action_meaning, False)
    return Checkpoint(network, CONFIG, shape, Normalizer(statistics, MAPPING, shape.sizes(), "test"), robot)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained_model folder that fits both golden datasets and says that actions are deltas."""
    folder = tmp_path_factory.mktemp("checkpoint") / "pretrained_model"
    folder.mkdir()
    tiny_checkpoint(Dataset.open(GOLDEN / "dataset_image")).write(folder)
    return folder


@pytest.fixture(scope="session")
def write_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> WriteCheckpoint:
    """Write the tiny checkpoint with some of its fields changed; returns its folder."""

    def write(**changes: object) -> Path:
        folder = tmp_path_factory.mktemp("changed") / "pretrained_model"
        folder.mkdir()
        replace(tiny_checkpoint(Dataset.open(GOLDEN / "dataset_image")), **changes).write(folder)  # type: ignore[arg-type]
        return folder

    return write


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from or written to the home folder, and no variable of the shell's decides."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EVAL_EPISODES", raising=False)
    monkeypatch.setenv("EVAL_DEVICE", "cpu")


@pytest.fixture(scope="session")
def sweep(shared: SharedFolders) -> Sweep:
    """A dataset and three trainings of 6 steps that differ in training.lr only."""
    folder = shared.get("sweep", record_convert_and_train)
    return Sweep(folder / "dataset", {name: folder / "runs" / name for name in RATES})


def record_convert_and_train(folder: Path) -> None:
    from demo.record import main as record
    from stage1_convert.__main__ import main as convert
    from stage2_train.__main__ import main as train

    assert record(["--out", str(folder / "bags"), "--episodes", "3"]) == 0
    assert convert(["--src", str(folder / "bags"), "--out", str(folder / "dataset")]) == 0
    for name, rate in RATES.items():
        overrides = [
            *TINY_TRAINING,
            "training.steps=6",
            "training.log_freq=2",
            "training.save_freq=6",
            "training.batch_size=2",
            f"training.lr={rate}",
            "data.val_fraction=0.34",
            "data.image_stats=dataset",
            f"data.dataset={folder / 'dataset'}",
            f"data.cache_dir={folder / 'cache'}",
            f"training.output_dir={folder / 'runs' / name}",
        ]
        assert train(["--override", *overrides]) == 0
