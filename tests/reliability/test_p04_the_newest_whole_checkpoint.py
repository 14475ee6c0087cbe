"""A training resumes from its newest complete checkpoint; a damaged one is skipped with one warning."""

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.act.checkpoint import Checkpoint
from common.act.runs import pretrained_folder
from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.report.card import CARD
from stage2_train.checkpoints.resume import find_resume_point
from stage2_train.train import train
from tests.reliability.damage import damage
from tests.reliability.harness import loops
from tests.stage2_train.tiny import VALIDATED, content, stopped_at, tiny_config

NEWEST, BEFORE = "checkpoint_000012", "checkpoint_000008"


def harms(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """The file cut off at its beginning, its middle and near its end, and with single bits flipped here and there.

    Near its end: without its last byte, a line break, a manifest still says the same.
    """
    yield from (data[:size] for size in (0, len(data) // 2, len(data) - 2))
    for _ in range(loops(8, 300)):
        flipped, at = bytearray(data), chance.randrange(8 * len(data))
        flipped[at // 8] ^= 1 << at % 8
        yield bytes(flipped)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_damage_to_any_of_its_files_is_noticed(
    dataset: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, chance = stopped_at(whole, 12, tmp_path / "out"), random.Random(0)
    config, fingerprint = tiny_config(dataset, out, *VALIDATED), Dataset.open(dataset).fingerprint
    paths = [path for path in (out / NEWEST).rglob("*") if path.is_file() and path.name != CARD]
    assert len(paths) == 11
    for path in paths:
        data = path.read_bytes()
        for harmed in (*harms(data, chance), None):
            if harmed is None:
                path.unlink()
            else:
                path.write_bytes(harmed)
            caplog.clear()
            start = find_resume_point(config, fingerprint, 1)
            assert start is not None
            assert start.folder == out / BEFORE, (path, harmed)
            (line,) = warned(caplog)
            assert line.startswith(f"{out / NEWEST} is incomplete or damaged and is skipped: ")
        path.write_bytes(data)
    start = find_resume_point(config, fingerprint, 1)
    assert start is not None
    assert start.folder == out / NEWEST


def test_damage_to_any_file_of_the_policy_is_noticed_where_a_run_is_loaded(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = stopped_at(whole, 12, tmp_path / "out")
    newest, before = (out / name / "pretrained_model" for name in (NEWEST, BEFORE))
    paths = [path for path in newest.iterdir() if path.name != CARD]
    assert len(paths) == 7
    for path in paths:
        data = path.read_bytes()
        path.write_bytes(data[:-10] + bytes([data[-10] ^ 1]) + data[-9:])
        caplog.clear()
        assert pretrained_folder(out) == before, path
        (line,) = warned(caplog)
        assert line.startswith(f"{out / NEWEST} is damaged and skipped: ")
        if path.suffix == ".safetensors":  # also where the damaged folder itself is named
            with pytest.raises(UserError, match=rf"{path.name} is not what manifest.json says"):
                Checkpoint.read(newest)
        path.write_bytes(data)
    assert pretrained_folder(out) == newest


def test_the_training_that_passed_one_over_ends_as_if_nothing_had_happened(
    dataset: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = stopped_at(whole, 12, tmp_path / "out")
    damage(out / NEWEST / "training_state" / "optimizer_state.safetensors", 1)
    train(tiny_config(dataset, out, *VALIDATED))
    assert len(warned(caplog)) == 1
    assert content(out) == content(whole)


def test_no_whole_checkpoint_at_all_is_refused_rather_than_begun_anew(
    dataset: Path, whole: Path, tmp_path: Path
) -> None:
    out = stopped_at(whole, 4, tmp_path / "out")
    (out / "checkpoint_000004" / "manifest.json").unlink()
    with pytest.raises(UserError, match="none of the 1 checkpoints in"):
        train(tiny_config(dataset, out, *VALIDATED))
