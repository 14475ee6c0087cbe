"""kill -9 anywhere in an evaluation, run the same command again: the same complete tables, apart from latencies."""

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

Start = Callable[..., Command]


def tables(out: Path) -> dict[str, pa.Table]:
    """Read every parquet file under a final name, without the latency; a truncated one raises."""
    found = {path.name: pq.read_table(path) for path in out.glob("*.parquet")}
    return {name: table.drop_columns(["inference_time_s"]) for name, table in found.items()}


@pytest.fixture
def start(warm: Warm, tmp_path: Path, image_dataset: Path, act_tiny: Path) -> Start:
    """Start the evaluation."""

    def evaluate(to: Path, die_at: int = 0) -> Command:
        arguments = ("--checkpoint", act_tiny, "--dataset", image_dataset, "--out", to, "--episodes", "all")
        more = ("--device", "cpu", "--latency-steps", 2)
        log, cache = tmp_path / "log", str(tmp_path / "cache")
        return warm.start(log, "stage3_eval", *arguments, *more, die_at=die_at, XDG_CACHE_HOME=cache)

    return evaluate


def test_a_killed_evaluation_gives_the_same_tables(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "killed" / "out"

    def again() -> None:
        tables(out)
        ended = start(out).join()
        assert ended.code == 0, ended.output
        assert tables(out) == expected
        assert not leftovers(tmp_path / "killed")
        shutil.rmtree(tmp_path / "killed")

    undisturbed = start(tmp_path / "undisturbed").join()
    assert undisturbed.code == 0, undisturbed.output
    expected = tables(tmp_path / "undisturbed")
    assert len(expected) == 3
    kills = loops(4, 100)
    assert kill_and_repeat(lambda die_at: start(out, die_at), undisturbed, kills, again) >= kills // 2


@pytest.mark.parametrize("change", [-4, -5, -6][: loops(1, 3)])
def test_a_kill_in_the_midst_of_a_table_leaves_no_part_of_it_under_its_name(
    start: Start, tmp_path: Path, change: int
) -> None:
    """Arrow writes files without Python's audit events, so the kernel has to kill inside of a write."""
    assert start(tmp_path / "undisturbed").join().code == 0
    expected = tables(tmp_path / "undisturbed")
    ended = start(tmp_path / "out", die_at=change).join()
    assert ended.code == -signal.SIGXFSZ, ended.output
    assert any(path.stat().st_size for path in (tmp_path / "out" / WORK).glob("*.parquet")), (
        "no table was being written"
    )
    assert not list((tmp_path / "out").glob("*.parquet"))
    assert start(tmp_path / "out").join().code == 0
    assert tables(tmp_path / "out") == expected
    again, undisturbed = (read_json(tmp_path / name / "summary.json") for name in ("out", "undisturbed"))
    del again["latency"], undisturbed["latency"]
    assert again == undisturbed
    assert not leftovers(tmp_path)
