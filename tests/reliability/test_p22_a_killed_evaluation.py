"""kill -9 anywhere in an evaluation, run the same command again: the same tables apart from latencies, each of them whole."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.storage.files import read_json
from stage3_eval.output import WORK
from tests.reliability.harness import Command, Warm, kill_and_repeat, leftovers, loops

ResumePoint = Callable[..., Command]


def tables(out: Path) -> dict[str, pa.Table]:
    """Read every parquet file under a final name, without the latency; a truncated one raises."""
    found = {path.name: pq.read_table(path) for path in out.rglob("*.parquet") if ".tmp" not in str(path)}
    return {name: table.drop_columns(["inference_time_s"]) for name, table in found.items()}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the tables of single episodes in a folder, latencies and all."""
    return {path.name: path.read_bytes() for path in folder.glob("episode_*.parquet")}


@pytest.fixture
def start(warm: Warm, ram: Path, image_dataset: Path, act_tiny: Path) -> ResumePoint:
    """Starts the evaluation."""

    def evaluate(to: Path, die_at: int = 0, die_after: str = "") -> Command:
        arguments = ("--checkpoint", act_tiny, "--dataset", image_dataset, "--out", to, "--episodes", "all")
        more = ("--device", "cpu", "--action-meaning", "delta", "--latency-steps", 2)
        log, cache = ram / "log", str(ram / "cache")
        return warm.start(
            log, "stage3_eval", *arguments, *more, die_at=die_at, die_after=die_after, XDG_CACHE_HOME=cache
        )

    return evaluate


def test_a_killed_evaluation_gives_the_same_tables(start: ResumePoint, ram: Path) -> None:
    out = ram / "killed" / "out"

    def again() -> None:
        tables(out)
        ended = start(out).join()
        assert ended.code == 0, ended.output
        assert tables(out) == expected
        assert not leftovers(ram / "killed")
        shutil.rmtree(ram / "killed")

    whole = start(ram / "whole").join()
    assert whole.code == 0, whole.output
    expected = tables(ram / "whole")
    assert len(expected) == 3
    kills = loops(4, 100)
    assert kill_and_repeat(lambda die_at: start(out, die_at), whole, kills, again) >= kills // 2


@pytest.mark.parametrize("after", ["scores_001.npz", "scores_000.npz", "episode_001.parquet"][: loops(1, 3)])
def test_a_kill_in_the_midst_of_a_table_leaves_no_part_of_it_under_its_name(
    start: ResumePoint, ram: Path, after: str
) -> None:
    """Arrow writes without Python's knowledge, so that no kill between two changes to the file system shows it."""
    assert start(ram / "whole").join().code == 0
    expected = tables(ram / "whole")
    ended = start(ram / "out", die_after=after).join()
    assert ended.code == -signal.SIGXFSZ, ended.output
    assert any(path.stat().st_size for path in ram.rglob("*.parquet*tmp")), "no table was being written"
    assert tables(ram / "out").keys() < expected.keys()
    done = contents(ram / "out" / WORK)
    assert after != "scores_001.npz" or done.keys() == {"episode_000.parquet"}
    assert start(ram / "out").join().code == 0
    assert tables(ram / "out") == expected
    assert done.items() <= contents(ram / "out").items(), "what was done was made again: the latencies differ"
    resumed, whole = (read_json(ram / name / "summary.json") for name in ("out", "whole"))
    del resumed["latency"], whole["latency"]
    assert resumed == whole
    assert not leftovers(ram)
