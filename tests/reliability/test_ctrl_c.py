"""After start-up, Ctrl-C once stops in an orderly way, twice at once, and the same command then completes the work."""

import os
import random
import re
import shutil
import signal
from pathlib import Path

from tests.conftest import group_ends
from tests.reliability.harness import Command, Ended, Warm, hashes, leftovers, loops
from tests.reliability.test_p22_a_killed_evaluation import tables
from tests.stage1_convert.recording import cell

STOPPED = "stopped; run the same command again to continue\n"
SOON_S = 20.0  # generous: the machine may be busy, and a file that is being written is completed


def interrupted(command: Command, times: list[float]) -> Ended:
    """Press Ctrl-C after each of these waits in seconds; the workers receive the signal, too, as from a terminal."""
    command.wait_for(lambda: catches_ctrl_c(command.pid))
    for seconds in times:
        if not command.ends_within(seconds):
            command.signal(signal.SIGINT)
    ended = command.join(SOON_S)
    assert group_ends(command.pid, SOON_S), ended.output
    assert "Traceback" not in ended.output
    return ended


def catches_ctrl_c(pid: int) -> bool:
    """Return whether a process has a handler for the signal, as it has from its start-up to the first Ctrl-C (proc(5))."""
    mask = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return mask is not None and bool(int(mask[1], 16) >> (signal.SIGINT - 1) & 1)


def test_an_evaluation(warm: Warm, tmp_path: Path, image_dataset: Path, act_tiny: Path) -> None:
    arguments = ("--checkpoint", act_tiny, "--dataset", image_dataset, "--episodes", "all", "--device", "cpu")
    more = ("--latency-steps", 1, "--out")
    cache, out = os.fspath(tmp_path / "cache"), tmp_path / "out"
    command = warm.start(tmp_path / "log", "stage3_eval", *arguments, *more, out, XDG_CACHE_HOME=cache)
    command.wait_for(lambda: any(tmp_path.rglob("episode_000.parquet")))
    ended = interrupted(command, [0])
    assert ended.code == 130
    assert STOPPED in ended.output
    assert warm.run(tmp_path / "log", "stage3_eval", *arguments, *more, out, XDG_CACHE_HOME=cache).code == 0
    assert len(tables(out)) == 3
    assert not leftovers(tmp_path)


def test_a_conversion_at_any_moment(warm: Warm, tmp_path: Path) -> None:
    for number in range(4):
        cell(1.0, seed=number).write(tmp_path / "src" / f"bag{number}")

    def convert(out: Path) -> Command:
        return warm.start(tmp_path / "log", "stage1_convert", "--src", tmp_path / "src", "--out", out, "--workers", 2)

    whole, chance, codes = convert(tmp_path / "whole").join(), random.Random(0), list[int]()
    latest_s = whole.seconds / 2
    while len(codes) < loops(4, 200):
        presses = 1 + len(codes) % 2
        waits = [chance.uniform(0, latest_s), chance.choice([0, 0.001, 0.02])][:presses]
        ended = interrupted(convert(tmp_path / "out"), waits)
        if ended.code == 0:  # too late
            latest_s *= 0.9
            shutil.rmtree(tmp_path / "out")
            continue
        assert ended.code == 130 or (presses == 2 and ended.code == -signal.SIGINT), ended.output
        assert not (tmp_path / "out").exists()
        if ended.code == 130:
            assert ended.output.count(STOPPED) == 1, ended.output
            assert not leftovers(tmp_path)
        codes.append(ended.code)
    is_begun = any(tmp_path.glob(".out.parts/[!.]*/record.json"))
    again = convert(tmp_path / "out").join()
    assert again.code == 0
    assert ("unchanged since they were converted before" in again.output) == is_begun
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    assert not leftovers(tmp_path)
