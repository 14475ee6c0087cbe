"""Fixtures of the promises: the warm process, small disks, and a training that was killed and went on."""

import itertools
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from stage2_train.checkpoints.saving import numbered
from stage2_train.train import train
from tests.azurite.bring import impatient, service
from tests.reliability.harness import SOAK, Ended, Warm
from tests.reliability.noted import Note, notes, path_of
from tests.stage2_train.tiny import VALIDATED, start, tiny_config, write_dataset

__all__ = ["impatient", "service"]

SmallDisk = Callable[[int], Path]


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A process that forks commands, with everything imported."""
    process = Warm()
    yield process
    process.close()


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where flushing to disk costs nothing, so that a kill finds the program at work and not waiting."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mount a tmpfs of some bytes and return its folder; skips where that is not permitted."""
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


class Noted(NamedTuple):
    """What the two processes of a training noted, and how the first one ended."""

    ranks: list[list[Note]]
    ended: Ended


class Stopped(NamedTuple):
    """A training of two processes that was killed and started again, beside one that was not: what each rank noted."""

    whole: list[list[Note]]
    before: list[list[Note]]  # up to the kill
    after: list[list[Note]]
    step: int  # where it went on
    out: Path


@pytest.fixture(scope="session")
def undisturbed(warm: Warm, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Noted:
    """A training of two processes that nobody killed."""
    return train_noting(warm, dataset, tmp_path_factory.mktemp("undisturbed") / "out")


@pytest.fixture(
    scope="session", params=itertools.product([0, 2], [0.5, 0.6, 0.7, 0.8, 0.9] if SOAK else [0.67]), ids=str
)
def stopped(
    warm: Warm,
    dataset: Path,
    undisturbed: Noted,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Stopped:
    """The same with so many reader threads, killed after such a part of its changes to the disk and started again."""
    (workers, part), out = request.param, tmp_path_factory.mktemp("stopped") / "out"
    threads = f"training.num_workers={workers}"
    before = train_noting(warm, dataset, out, threads, die_at=int(undisturbed.ended.changes * part))
    step, folder = numbered(out)[-1]
    after = train_noting(warm, dataset, out, threads)
    assert (undisturbed.ended.code, before.ended.code, after.ended.code) == (0, -signal.SIGKILL, 0)
    assert f"going on from {folder}" in after.ended.output
    return Stopped(undisturbed.ranks, before.ranks, after.ranks, step, out)


def train_noting(warm: Warm, dataset: Path, out: Path, *more: str, die_at: int = 0) -> Noted:
    """Train as two processes that note what they draw."""
    for rank in (0, 1):
        path_of(out, rank).unlink(missing_ok=True)
    args = ("training.batch_size=2", "training.save_freq=3", *more)
    commands = start(warm, dataset, out, *args, world_size=2, die_at=die_at, module="tests.reliability.noted")
    first, _ = [command.join() for command in commands]
    return Noted([notes(out, rank) for rank in (0, 1)], first)
