"""A training that is killed at any moment and started again gives the weights of one that was never killed."""

import random
import shutil
import signal
from pathlib import Path

import pytest

from common.act.runs import list_checkpoints
from tests.reliability.harness import Command, Warm, leftovers, loops
from tests.stage2_train.tiny import content, finish, start, stderr, without_times, write_dataset

# Saves often, so that many a kill falls into a save.
OFTEN = (
    *("training.steps=20", "training.save_freq=2", "training.log_freq=5"),
    *("data.val_fraction=0.34", "training.val_freq=3"),
)


@pytest.mark.parametrize(("world_size", "short", "soak"), [(1, 4, 100), (2, 2, 50)])
def test_kills_at_random_moments_change_nothing(
    warm: Warm, tmp_path: Path, world_size: int, short: int, soak: int
) -> None:
    dataset, whole, out = write_dataset(tmp_path / "dataset"), tmp_path / "whole", tmp_path / "out"
    args = (*OFTEN, f"training.batch_size={4 // world_size}")
    undisturbed = [command.join() for command in start(warm, dataset, whole, *args, world_size=world_size)]
    assert [ended.code for ended in undisturbed] == [0] * world_size, stderr(whole)
    chance, kills, resumes = random.Random(world_size), 0, 0

    def start_again(die_at: int = 0) -> list[Command]:
        return start(warm, dataset, out, *args, world_size=world_size, die_at=die_at)

    for number in range(loops(short, soak)):
        die_at = chance.randint(1, undisturbed[0].changes // 2) if number % 2 else 0
        saved, commands = len(list_checkpoints(out)), start_again(die_at)
        while not die_at and len(list_checkpoints(out)) == saved and not commands[0].ends_within(0.002):
            pass
        if not commands[0].ends_within(60 if die_at else chance.uniform(0, 0.02)):
            for command in commands:
                command.signal()
        code, *_ = finish(commands)
        assert code in (0, -signal.SIGKILL), stderr(out)
        kills, resumes = kills + (code != 0), resumes + ("resuming from" in stderr(out))
        if code == 0 or number == loops(short, soak) - 1:
            assert finish(start_again()) == [0] * world_size, stderr(out)
            assert content(out) == content(whole)
            assert without_times(out) == without_times(whole)
            assert not leftovers(out)
            shutil.rmtree(out)
    assert kills
    assert resumes
