"""Ctrl-C stops a conversion: nothing runs on, one line says how to go on, and going on gives the same dataset; twice, at
once.
"""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.promises.harness import Command, Ended, Warm, hashes, leftovers, loops
from tests.stage1_convert.recording import cell

MOST_S = 10.0  # on a busy machine
STOPPED = "stopped; run the same command again to go on\n"


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    src = tmp_path_factory.mktemp("interrupted") / "src"
    for number in range(4):
        cell(1.0, seed=number).write(src / f"bag{number}")
    return src


def nobody_is_left(group: int) -> bool:
    """Tell whether all processes of a group end; the one that forks the workers finishes its imports first."""
    for _ in range(500):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def interrupted(command: Command, times: list[float]) -> Ended:
    """Press Ctrl-C after these waits in seconds; workers get the signal, too, as they would from a terminal."""
    for seconds in times:
        if not command.ends_within(seconds):
            command.signal(signal.SIGINT)
    ended = command.join(MOST_S)
    assert nobody_is_left(command.pid), ended.output
    return ended


def test_it_leaves_no_process_and_the_same_command_goes_on(bags: Path, warm: Warm, ram: Path) -> None:
    def convert(out: Path) -> Command:
        return warm.start(ram / "log", "stage1_convert", "--src", bags, "--out", out, "--workers", 2)

    whole, chance, stopped = convert(ram / "whole").join(), random.Random(0), {1: 0, 2: 0}
    for number in range(loops(4, 200)):
        waits = [chance.uniform(0.05, whole.seconds / 2), chance.choice([0, 0.001, 0.02])][: 1 + number % 2]
        ended = interrupted(convert(ram / "out"), waits)
        assert "Traceback" not in ended.output
        if ended.code == 0:  # too late
            shutil.rmtree(ram / "out")
            continue
        assert ended.code in (130, -signal.SIGINT)[: len(waits)], ended.output
        if ended.code == 130:
            assert ended.output.count(STOPPED) == 1, ended.output
            assert not leftovers(ram)
        stopped[len(waits)] += 1
    assert all(stopped.values())
    assert convert(ram / "out").join().code == 0
    assert hashes(ram / "out") == hashes(ram / "whole")
    assert not leftovers(ram)
