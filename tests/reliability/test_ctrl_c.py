"""After start-up, Ctrl-C once stops in an orderly way, twice at once, and the same command then completes the work."""

import os
import random
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import group_ends
from tests.reliability.harness import Command, Ended, Warm, hashes, leftovers, loops
from tests.reliability.test_p22_a_killed_evaluation import tables
from tests.stage1_convert.recording import cell

STOPPED = "stopped; run the same command again to continue\n"
SOON_S = 20.0  # generous: the machine may be busy, and a file that is being written is completed


def stop(command: Command, times: int) -> str:
    """Press Ctrl-C, which a terminal sends to every process of the group, and return the output."""
    command.signal(signal.SIGINT)
    if times == 2:
        while catches_ctrl_c(command.pid) and not command.ends_within(0.002):
            pass
        command.signal(signal.SIGINT)
    ended = command.join(SOON_S)
    assert ended.code == 130 or (times == 2 and ended.code == -signal.SIGINT), ended.output
    assert "Traceback" not in ended.output
    assert "Exception" not in ended.output
    assert group_ends(command.pid, SOON_S), ended.output
    return ended.output


def catches_ctrl_c(pid: int) -> bool:
    """Return whether a process has a handler for the signal, as it has from its start-up to the first Ctrl-C (proc(5))."""
    mask = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return mask is not None and bool(int(mask[1], 16) >> (signal.SIGINT - 1) & 1)


@pytest.mark.parametrize("times", [1, 2])
def test_a_conversion(warm: Warm, tmp_path: Path, times: int) -> None:
    for number in range(5):
        cell(1.0, seed=number, size=(240, 320)).write(tmp_path / "src" / f"bag{number}")
    arguments = ("stage1_convert", "--src", tmp_path / "src", "--workers", 1, "--out")
    assert warm.run(tmp_path / "log", *arguments, tmp_path / "whole").code == 0
    command = warm.start(tmp_path / "log", *arguments, tmp_path / "out")
    command.wait_for(lambda: any(tmp_path.glob(".out.parts/[!.]*/record.json")))
    output = stop(command, times)
    assert times == 2 or output.startswith(STOPPED)
    assert not (tmp_path / "out").exists()
    again = warm.run(tmp_path / "log", *arguments, tmp_path / "out")
    assert again.code == 0
    assert "unchanged since they were converted before" in again.output
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("times", [1, 2])
def test_an_evaluation(warm: Warm, tmp_path: Path, image_dataset: Path, act_tiny: Path, times: int) -> None:
    arguments = ("--checkpoint", act_tiny, "--dataset", image_dataset, "--episodes", "all", "--device", "cpu")
    more = ("--action-meaning", "delta", "--latency-steps", 1, "--out")
    cache, out = os.fspath(tmp_path / "cache"), tmp_path / "out"
    command = warm.start(tmp_path / "log", "stage3_eval", *arguments, *more, out, XDG_CACHE_HOME=cache)
    command.wait_for(lambda: any(tmp_path.rglob("episode_000.parquet")))
    output = stop(command, times)
    assert times == 2 or STOPPED in output
    assert warm.run(tmp_path / "log", "stage3_eval", *arguments, *more, out, XDG_CACHE_HOME=cache).code == 0
    assert len(tables(out)) == 3
    assert not leftovers(tmp_path)


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    src = tmp_path_factory.mktemp("interrupted") / "src"
    for number in range(4):
        cell(1.0, seed=number).write(src / f"bag{number}")
    return src


def interrupted(command: Command, times: list[float]) -> Ended:
    """Press Ctrl-C after each of these waits in seconds; the workers receive the signal, too, as from a terminal."""
    command.wait_for(lambda: catches_ctrl_c(command.pid))
    for seconds in times:
        if not command.ends_within(seconds):
            command.signal(signal.SIGINT)
    ended = command.join(SOON_S)
    assert group_ends(command.pid, SOON_S), ended.output
    return ended


def test_a_conversion_at_any_moment(bags: Path, warm: Warm, ram: Path) -> None:
    def convert(out: Path) -> Command:
        return warm.start(ram / "log", "stage1_convert", "--src", bags, "--out", out, "--workers", 2)

    whole, chance, codes = convert(ram / "whole").join(), random.Random(0), list[int]()
    latest_s = whole.seconds / 2
    while len(codes) < loops(4, 200):
        presses = 1 + len(codes) % 2
        waits = [chance.uniform(0, latest_s), chance.choice([0, 0.001, 0.02])][:presses]
        ended = interrupted(convert(ram / "out"), waits)
        assert "Traceback" not in ended.output
        if ended.code == 0:  # too late
            latest_s *= 0.9
            shutil.rmtree(ram / "out")
            continue
        assert ended.code == 130 or (presses == 2 and ended.code == -signal.SIGINT), ended.output
        if ended.code == 130:
            assert ended.output.count(STOPPED) == 1, ended.output
            assert not leftovers(ram)
        codes.append(ended.code)
    assert convert(ram / "out").join().code == 0
    assert hashes(ram / "out") == hashes(ram / "whole")
    assert not leftovers(ram)


def test_a_recording_at_any_moment(warm: Warm, ram: Path) -> None:
    def record(out: Path) -> Command:
        return warm.start(ram / "log", "demo.record", "--out", out, "--episodes", 12, "--workers", 2)

    whole, chance, codes = record(ram / "whole").join(), random.Random(0), list[int]()
    while len(codes) < loops(4, 100):
        ended = interrupted(record(ram / "out"), [chance.uniform(0, whole.seconds / 2)])
        assert "Traceback" not in ended.output
        assert ended.code in (0, 130), ended.output
        assert not leftovers(ram)
        if ended.code:
            codes.append(ended.code)
        else:  # the work was completed before
            assert hashes(ram / "out") == hashes(ram / "whole")
            shutil.rmtree(ram / "out")
    assert record(ram / "out").join().code == 0
    assert hashes(ram / "out") == hashes(ram / "whole")
