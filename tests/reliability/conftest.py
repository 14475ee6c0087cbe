"""Fixtures: the warm process, small disks, and a training that was killed and resumed."""

import itertools
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from common.act.runs import list_checkpoints
from common.lerobot.dataset import Dataset
from stage2_train.batches import ChunkDataset
from stage2_train.train import train
from tests.azurite.transfer import impatient, service
from tests.conftest import GOLDEN
from tests.reliability.harness import SOAK, Ended, Warm
from tests.reliability.recorded_training import Draws, read_draws, record_path
from tests.stage2_train.tiny import VALIDATED, open_store, start, tiny_config, write_dataset

__all__ = ["impatient", "service"]

SmallDisk = Callable[[int], Path]


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A process that forks commands, with everything imported."""
    process = Warm()
    yield process
    process.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mount a tmpfs of this size in bytes and return its folder; skips the test where mounting is not permitted."""
    mounted: list[Path] = []

    def mount(size_bytes: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command here")
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 31 frames in three episodes, without images."""
    return write_dataset(tmp_path_factory.mktemp("tiny") / "dataset")


@pytest.fixture(scope="session")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of 12 steps that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train(tiny_config(dataset, out, *VALIDATED))
    return out


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> ChunkDataset:
    """The 42 frames of the dataset with images that LeRobot wrote, each the start of a chunk of 10 steps."""
    dataset = Dataset.open(GOLDEN / "dataset_image")
    return ChunkDataset(open_store(dataset, tmp_path_factory.mktemp("cache")), dataset.episodes, 10)


class Recorded(NamedTuple):
    """What each of the two processes of a training drew, and how the first one ended."""

    ranks: list[list[Draws]]
    ended: Ended


class Resumed(NamedTuple):
    """What each rank drew in a training that was killed and resumed, and in one that was not."""

    whole: list[list[Draws]]
    before: list[list[Draws]]  # up to the kill
    after: list[list[Draws]]
    step: int  # where it resumed
    out: Path


@pytest.fixture(scope="session")
def undisturbed(warm: Warm, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A training of two processes that nobody killed."""
    return record_training(warm, dataset, tmp_path_factory.mktemp("undisturbed") / "out")


@pytest.fixture(
    scope="session", params=itertools.product([0, 2], [0.5, 0.6, 0.7, 0.8, 0.9] if SOAK else [0.67]), ids=str
)
def resumed(
    warm: Warm,
    dataset: Path,
    undisturbed: Recorded,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Resumed:
    """The same with so many loader threads, killed after such a share of its changes to the disk and started again."""
    (workers, share), out = request.param, tmp_path_factory.mktemp("resumed") / "out"
    threads = f"training.num_workers={workers}"
    before = record_training(warm, dataset, out, threads, die_at=int(undisturbed.ended.changes * share))
    step, folder = list_checkpoints(out)[-1]
    after = record_training(warm, dataset, out, threads)
    assert (undisturbed.ended.code, before.ended.code, after.ended.code) == (0, -signal.SIGKILL, 0)
    assert f"resuming from {folder}" in after.ended.output
    return Resumed(undisturbed.ranks, before.ranks, after.ranks, step, out)


def record_training(warm: Warm, dataset: Path, out: Path, *more: str, die_at: int = 0) -> Recorded:
    """Train as two processes that record what they draw."""
    for rank in (0, 1):
        record_path(out, rank).unlink(missing_ok=True)
    args = ("training.batch_size=2", "training.save_freq=3", *more)
    module = "tests.reliability.recorded_training"
    commands = start(warm, dataset, out, *args, world_size=2, die_at=die_at, module=module)
    first, _ = [command.join() for command in commands]
    return Recorded([read_draws(out, rank) for rank in (0, 1)], first)
