"""A tiny checkpoint for the golden datasets, untrained: its predictions are arbitrary and always the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.act import ActConfig
from common.checkpoint import Checkpoint, PolicyShape, Robot, new_network
from common.dataset import ACTION, STATE, Dataset, picture_key
from common.normalise import Normaliser
from tests.conftest import GOLDEN

MAPPING = {"STATE": "MEAN_STD", "ACTION": "MEAN_STD", "VISUAL": "MEAN_STD"}
CONFIG = ActConfig(
    chunk_size=10, dim_model=32, n_heads=4, dim_feedforward=64, n_encoder_layers=1, n_vae_encoder_layers=1, latent_dim=8
)
WriteCheckpoint = Callable[..., Path]


def tiny_checkpoint(dataset: Dataset, action_meaning: str | None = "delta") -> Checkpoint:
    shape = PolicyShape(dataset.features[STATE].shape[0], dataset.features[ACTION].shape[0], dataset.cameras)
    statistics = {
        f"{key}.{name}": torch.as_tensor(dataset.stats[key][name]).float()
        for key in (STATE, ACTION, *map(picture_key, dataset.cameras))
        for name in ("mean", "std")
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = new_network(CONFIG, shape)
    robot = Robot(dataset.joint_names, dataset.fps, action_meaning, False)
    return Checkpoint(network, CONFIG, shape, Normaliser(statistics, MAPPING, shape.sizes(), "test"), robot)


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
