"""A training that is killed at any moment, and started again until it is done, is the training that nobody killed."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.stage2_train.test_resume import content
from tests.stage2_train.tiny import finish, start, stderr, without_times, write_dataset

LOOPS = int(os.environ.get("SOAK_LOOPS", "4"))
# Saves all the time, so that many a kill meets a save; one log line reaches over several of them.
OFTEN = (
    "training.steps=60",
    "training.save_freq=2",
    "training.log_freq=7",
    "data.val_fraction=0.34",
    "training.val_freq=9",
)


@pytest.mark.parametrize("world_size", [1, 2])
def test_kills_at_random_moments_change_nothing(tmp_path: Path, world_size: int) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    args = (*OFTEN, f"training.batch_size={4 // world_size}")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert finish(start(dataset, whole, *args, world_size=world_size)) == [0] * world_size, stderr(whole)
    rng, kills = random.Random(world_size), 0
    for _ in range(LOOPS):
        done = len(list(out.glob("checkpoint_*")))
        processes = start(dataset, out, *args, world_size=world_size)
        while len(list(out.glob("checkpoint_*"))) < min(done + rng.randint(1, 6), 29) and processes[0].is_alive():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        for process in processes:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        kills += finish(processes).count(-signal.SIGKILL)
    assert kills >= LOOPS * world_size / 2
    assert finish(start(dataset, out, *args, world_size=world_size)) == [0] * world_size, stderr(out)
    assert content(out) == content(whole)
    assert without_times(out) == without_times(whole)
    assert not list(out.glob(".tmp-*"))
    assert stderr(out).count("going on from") >= LOOPS / 2
