"""A mistake in the configuration is one line and exit code 2 before any data is opened, in every stage."""

from pathlib import Path

import pytest

from tests.reliability.harness import Warm

CONVERT = ("stage1_convert", "--src", "/nowhere", "--out", "/nowhere/out", "--override")
TRAIN = ("stage2_train", "--override", "data.dataset=/nowhere", "training.output_dir=/nowhere/out")
EVALUATE = ("stage3_eval", "--checkpoint", "/nowhere", "--dataset", "/nowhere", "--out", "/nowhere/out")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((*CONVERT, "data.fsp=30"), ("data.fsp", "data.fps")),
        ((*CONVERT, "data.fps=fast"), ("data.fps=fast", "a whole number")),
        ((*CONVERT, "data.fps=0"), ("data.fps=0", "at least 1")),
        ((*CONVERT, "data.resample=cubic"), ("data.resample=cubic", "hold, nearest, linear")),
        ((*TRAIN, "training.stesp=3"), ("training.stesp", "training.steps")),
        ((*TRAIN, "training.lr=-1"), ("training.lr=-1", "at least 0")),
        ((*TRAIN, "model.n_heads=7"), ("model.n_heads=7", "multiple")),
        (TRAIN, ("/nowhere", "meta/info.json")),
        ((*EVALUATE, "--device", "gpu"), ("--device", "gpu", "cpu")),
        ((*EVALUATE, "--batch-size", "0"), ("--batch-size", "whole number")),
    ],
)
def test_a_mistake_is_one_line(warm: Warm, tmp_path: Path, command: tuple[str, ...], words: tuple[str, ...]) -> None:
    ended = warm.run(tmp_path / "log", command[0], *command[1:])
    assert ended.code == 2, ended.output
    line, end = ended.output.split("\n", 1)
    assert end.startswith("changes="), f"more than one line: {ended.output}"
    assert all(word in line for word in words), line
    named = "/nowhere" in words
    assert named or "/nowhere" not in line, "the data was looked for before the mistake was found"
