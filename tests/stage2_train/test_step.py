"""A step never waits for the device: it reads no value there, and copies none to it but the batch."""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from common.lerobot.dataset import Dataset
from stage2_train.batches import load_batches
from stage2_train.checkpoints.initial import initial_checkpoint
from stage2_train.config import TrainConfig
from stage2_train.distributed import World
from stage2_train.loop import Trainer
from tests.stage2_train.tiny import open_store, tiny_config, write_dataset

# Reading a value, finding out how many there are, and a tensor from numbers of Python's, which a device must wait for.
WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "lift_fresh"}
AUGMENTED = [f"augment.{name}=0.1" for name in ("brightness", "contrast", "saturation", "hue")]
EVERYTHING = [*AUGMENTED, "augment.shift_px=2", "training.grad_accumulation=2", "training.amp=bf16"]


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation that would wait for a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.found += [name] if name in WAITS else []
        return func(*args, **(kwargs or {}))


def trainer(config: TrainConfig, device: torch.device) -> Trainer:
    dataset = Dataset.open(Path(config.data.dataset))
    store = open_store(dataset, Path(config.training.output_dir).parent / "cache")
    checkpoint = initial_checkpoint(config, dataset, [])
    started = Trainer(config, dataset, store, list(dataset.episodes), [], checkpoint, World(0, 1, device))
    started.start_from(None, 0)
    return started


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    dataset = write_dataset(tmp_path / "dataset", cameras={"front": (32, 40)}, environment=2)
    return tiny_config(dataset, tmp_path / "out", "data.image_stats=imagenet", *EVERYTHING)


def test_a_step_reads_nothing_from_the_device(config: TrainConfig) -> None:
    started = trainer(config, torch.device("cpu"))
    batch = started.dataset.batch(started.order, 0)
    started.stepper.step(repeat(batch), 0)  # makes the constants
    with Waits() as waits:
        result = started.stepper.step(repeat(batch), 1)
    assert waits.found == []
    with waits:
        assert result.grad_norm.item() > 0  # as the host reads it when it logs
    assert waits.found == ["_local_scalar_dense"]


@pytest.fixture
def errors_of_waits() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch notices waits on a CUDA device only")
@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
def test_a_step_on_a_cuda_device_waits_for_nothing(config: TrainConfig, amp: str, errors_of_waits: None) -> None:
    training = config.training.model_copy(update={"amp": amp})
    started = trainer(config.model_copy(update={"training": training}), torch.device("cuda", 0))
    batches = load_batches(started.dataset, started.order, 0, 6, 2, started.world.device)
    for step in range(6):
        torch.cuda.set_sync_debug_mode("error" if step > 2 else "default")
        started.stepper.step(batches, step)
