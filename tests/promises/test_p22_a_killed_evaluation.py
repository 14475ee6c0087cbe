"""kill -9 anywhere in an evaluation, run the same command again: the same tables apart from latencies, each of them whole."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.promises.harness import Command, Warm, kill_and_repeat, leftovers, loops


def tables(out: Path) -> dict[str, pa.Table]:
    """Read every parquet file under a final name, without the latency; a truncated one raises."""
    found = {path.name: pq.read_table(path) for path in out.rglob("*.parquet") if ".tmp" not in str(path)}
    return {name: table.drop_columns(["inference_time_s"]) for name, table in found.items()}


def test_a_killed_evaluation_gives_the_same_tables(warm: Warm, ram: Path, image_dataset: Path, act_tiny: Path) -> None:
    def evaluate(die_at: int = 0, to: Path = ram / "killed" / "out") -> Command:
        arguments = ("--checkpoint", act_tiny, "--dataset", image_dataset, "--out", to, "--episodes", "all")
        more = ("--device", "cpu", "--action-meaning", "delta", "--latency-steps", 2)
        cache = str(ram / "cache")
        return warm.start(ram / "log", "stage3_eval", *arguments, *more, die_at=die_at, XDG_CACHE_HOME=cache)

    def again() -> None:
        tables(ram / "killed" / "out")
        ended = evaluate().join()
        assert ended.code == 0, ended.output
        assert tables(ram / "killed" / "out") == expected
        assert not leftovers(ram / "killed")
        shutil.rmtree(ram / "killed")

    whole = evaluate(to=ram / "whole").join()
    assert whole.code == 0, whole.output
    expected = tables(ram / "whole")
    assert len(expected) == 3
    assert kill_and_repeat(evaluate, whole, loops(4, 100), again) >= loops(4, 100) // 2
