"""Ctrl-C once stops cleanly and says how to go on, twice stops at once; the same command then ends what was begun."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.promises.harness import Command, Warm, hashes, leftovers
from tests.promises.test_p22_a_killed_evaluation import tables
from tests.stage1_convert.recording import cell

SOON_S = 20.0  # generous: a busy machine, and what is being written is finished


def wait_for(command: Command, sign: Callable[[], object]) -> None:
    """Wait until a command has come so far."""
    while not sign():
        assert not command.ends_within(0.002), f"it ended before it could be stopped:\n{command.log.read_text()}"


def stop(command: Command, times: int) -> str:
    """Press Ctrl-C: the terminal sends the signal to every process of the group. Return what was said."""
    for number in range(times):
        time.sleep(0.05 * (number > 0))
        if not command.ends_within(0):
            command.signal(signal.SIGINT)
    ended = command.join(SOON_S)
    assert ended.code in (130, -signal.SIGINT)[: 1 if times == 1 else 2], ended.output
    assert "Traceback" not in ended.output
    assert "Exception" not in ended.output
    deadline_s = time.monotonic() + SOON_S
    while any(is_of(entry, command.pid) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
        assert time.monotonic() < deadline_s, "a process of it lives on"
        time.sleep(0.01)
    return ended.output


def is_of(entry: Path, group: int) -> bool:
    try:
        state, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return False
    return int(of) == group and state != "Z"


@pytest.mark.parametrize("times", [1, 2])
def test_a_conversion(warm: Warm, tmp_path: Path, times: int) -> None:
    for number in range(5):
        cell(1.0, seed=number, size=(240, 320)).write(tmp_path / "src" / f"bag{number}")
    arguments = ("stage1_convert", "--src", tmp_path / "src", "--workers", 1, "--out")
    assert warm.run(tmp_path / "log", *arguments, tmp_path / "whole").code == 0
    command = warm.start(tmp_path / "log", *arguments, tmp_path / "out")
    wait_for(command, lambda: list(tmp_path.glob(".out.parts/[!.]*/record.json")))
    said = stop(command, times)
    assert times == 2 or said.startswith("stopped; run the same command again to go on\n")
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
    wait_for(command, (out / ".unfinished" / "episode_000.parquet").exists)
    said = stop(command, times)
    assert times == 2 or "stopped; run the same command again to go on\n" in said
    assert warm.run(tmp_path / "log", "stage3_eval", *arguments, *more, out, XDG_CACHE_HOME=cache).code == 0
    assert len(tables(out)) == 3
    assert not leftovers(tmp_path)
