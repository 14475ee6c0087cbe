"""A dry run shows what a training would do, and leaves nothing behind."""

from pathlib import Path

import pytest

from stage2_train.__main__ import main
from tests.stage2_train.tiny import TINY, paths, write_dataset


def test_it_prints_the_numbers_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path / "dataset", lengths=(9, 12, 10, 8), cameras={"front": (32, 40)})
    before = sorted(tmp_path.rglob("*"))
    overrides = [*TINY, *paths(dataset, tmp_path / "out"), "data.val_fraction=0.25", "data.image_stats=imagenet"]
    assert main(["--dry-run", "--override", *overrides]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    output = capsys.readouterr().out
    for text in (
        "chunk_size: 5",
        "3 episodes to train on, 1 held out; 29 samples, 30 fps; cameras: front 32x40",
        "4 samples a step",
        "0.00 GB of decoded images in",
        "s a step on cpu",
    ):
        assert text in output, output
