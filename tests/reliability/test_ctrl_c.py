"""Ctrl-C once stops cleanly and says how to go on, twice stops at once; the same command then ends what was begun."""

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, group_ends
from tests.reliability.harness import Command, Ended, Warm, hashes, leftovers, loops
from tests.reliability.test_p22_a_killed_evaluation import tables
from tests.stage1_convert.recording import cell

COMMANDS = ("stage1_convert", "stage2_train", "stage3_eval", "demo", "demo.record", "demo.rollout", "osmo.local")
STOPPED = "stopped; run the same command again to go on\n"
MOST_S = 10.0  # on a busy machine
SOON_S = 20.0  # generous: a busy machine, and what is being written is finished


def stop(command: Command, times: int, imports: bool = False) -> str:
    """Press Ctrl-C: the terminal sends the signal to every process of the group. Return what was said.

    A command that still `imports` in the midst of its work may end by the first one at once.
    """
    command.signal(signal.SIGINT)
    if times == 2:
        while catches_ctrl_c(command.pid) and not command.ends_within(0.002):
            pass
        command.signal(signal.SIGINT)
    ended = command.join(SOON_S)
    orderly_only = times == 1 and not imports
    assert ended.code == 130 or (ended.code == -signal.SIGINT and not orderly_only), ended.output
    assert "Traceback" not in ended.output
    assert "Exception" not in ended.output
    assert group_ends(command.pid, SOON_S), ended.output
    return ended.output


def catches_ctrl_c(pid: int) -> bool:
    """Tell whether a process answers the signal itself; the first one that it gets is the last that it does (proc(5))."""
    mask = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return mask is not None and bool(int(mask[1], 16) >> (signal.SIGINT - 1) & 1)


@pytest.mark.parametrize("command", [f"{module} --help" for module in COMMANDS])
@pytest.mark.parametrize("later", [1, 150, *range(2, loops(2, 150), 10)])
def test_a_command_that_still_imports(command: str, later: int) -> None:
    """Python tells of each module that it has imported; the heaviest are still to come."""
    stop_importing(command, later)


@pytest.mark.parametrize("later", [300, *range(400, loops(400, 1000), 20)])
def test_a_command_that_imports_more_when_its_flags_are_read(later: int) -> None:
    """PyTorch makes a TypeError of an interrupt now and then."""
    assert STOPPED in stop_importing("stage3_eval --checkpoint nowhere --dataset nowhere --out nowhere", later)


def stop_importing(words: str, later: int) -> str:
    command = [sys.executable, "-X", "importtime", "-m", *words.split()]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        told = iter(process.stderr.readline, "")
        assert any(line.endswith(" common.cli.ctrl_c\n") for line in told)
        assert len(list(itertools.islice(told, later))) == later
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == -signal.SIGINT, said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("times", [1, 2])
def test_a_conversion(warm: Warm, tmp_path: Path, times: int) -> None:
    for number in range(5):
        cell(1.0, seed=number, size=(240, 320)).write(tmp_path / "src" / f"bag{number}")
    arguments = ("stage1_convert", "--src", tmp_path / "src", "--workers", 1, "--out")
    assert warm.run(tmp_path / "log", *arguments, tmp_path / "whole").code == 0
    command = warm.start(tmp_path / "log", *arguments, tmp_path / "out")
    command.wait_for(lambda: any(tmp_path.glob(".out.parts/[!.]*/record.json")))
    said = stop(command, times)
    assert times == 2 or said.startswith(STOPPED)
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
    command.wait_for((out / ".unfinished" / "episode_000.parquet").exists)
    said = stop(command, times, imports=True)  # matplotlib, for the page
    assert times == 2 or STOPPED in said
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
    """Press Ctrl-C after these waits in seconds; workers get the signal, too, as they would from a terminal."""
    command.wait_for(lambda: catches_ctrl_c(command.pid))
    for seconds in times:
        if not command.ends_within(seconds):
            command.signal(signal.SIGINT)
    ended = command.join(MOST_S)
    assert group_ends(command.pid, MOST_S), ended.output
    return ended


def test_a_conversion_at_any_moment(bags: Path, warm: Warm, ram: Path) -> None:
    def convert(out: Path) -> Command:
        return warm.start(ram / "log", "stage1_convert", "--src", bags, "--out", out, "--workers", 2)

    whole, chance, codes = convert(ram / "whole").join(), random.Random(0), list[int]()
    latest_s = whole.seconds / 2
    while len(codes) < loops(4, 200):
        waits = [chance.uniform(0, latest_s), chance.choice([0, 0.001, 0.02])][: 1 + len(codes) % 2]
        ended = interrupted(convert(ram / "out"), waits)
        assert "Traceback" not in ended.output
        if ended.code == 0:  # too late
            latest_s *= 0.9
            shutil.rmtree(ram / "out")
            continue
        assert ended.code in (130, -signal.SIGINT), ended.output
        if ended.code == 130:
            assert ended.output.count(STOPPED) == 1, ended.output
            assert not leftovers(ram)
        codes.append(ended.code)
    assert codes[::2].count(130) > len(codes) / 2 * 0.9, "one Ctrl-C, unless something is just imported, is orderly"
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
        assert ended.code in (0, 130, -signal.SIGINT), ended.output
        assert ended.code == -signal.SIGINT or not leftovers(ram)
        if ended.code:
            codes.append(ended.code)
        else:  # what was begun is ended sooner or later
            assert hashes(ram / "out") == hashes(ram / "whole")
            shutil.rmtree(ram / "out")
    assert record(ram / "out").join().code == 0
    assert hashes(ram / "out") == hashes(ram / "whole")
