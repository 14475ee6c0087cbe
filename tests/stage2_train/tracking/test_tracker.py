"""metrics.jsonl is the record; wandb and TensorBoard get the same numbers, and only when they are enabled."""

import sys
from pathlib import Path

import pytest

from stage2_train.tracking.tracker import truncate_metrics
from stage2_train.train import train
from tests.reliability.harness import Warm
from tests.stage2_train.tiny import TINY, metrics, paths, tiny_config

pytestmark = pytest.mark.integration


def test_wandb_offline_keeps_metrics_configuration_project_and_tags(warm: Warm, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wandb = ["wandb.enabled=true", "wandb.mode=offline", "wandb.run_name=first", "training.steps=4"]
    ended = warm.run(tmp_path / "log", "stage2_train", "--override", *TINY, *paths(dataset, out), *wandb)
    assert ended.code == 0, ended.output
    (path,) = (out / "wandb").glob("offline-run-*/*.wandb")
    stored = path.read_bytes()
    for text in (b"ur10e-act-train", b"first", b"osmo", b"dim_feedforward", b"samples_per_s", b"grad_norm"):
        assert text in stored, text
    for row in metrics(out):
        assert str(row["loss"]).encode() in stored
    assert path.name == f"run-{(out / 'wandb_run_id').read_text()}.wandb"


def test_wandb_is_not_imported_unless_enabled(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    train(tiny_config(dataset, tmp_path / "out", "training.steps=1"))
    assert "wandb" not in sys.modules
    assert not (tmp_path / "out" / "wandb").exists()


def test_tensorboard_gets_every_number(dataset: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_config(dataset, tmp_path / "out", "training.tensorboard=true"))
    stored = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    stored.Reload()
    for key in ("loss", "lr", "grad_norm"):
        expected = [(int(row["step"]), pytest.approx(row[key])) for row in metrics(tmp_path / "out")]
        assert [(event.step, event.value) for event in stored.Scalars(key)] == expected


def test_metrics_after_the_step_and_an_incomplete_line_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    truncate_metrics(path, 2)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    path.write_bytes(b'{"step": 1}\n{"step": 2}')  # valid JSON, but the next line would be appended to it
    truncate_metrics(path, 2)
    assert path.read_bytes() == b'{"step": 1}\n'
