"""wandb may be missing, hang, raise or die: the weights and metrics.jsonl are those of a run without it."""

import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from stage2_train import track
from stage2_train.train import train
from tests.stage2_train.tiny import tiny_config, without_times

WEIGHTS = "checkpoint_000012/pretrained_model/model.safetensors"


@pytest.fixture(scope="module")
def without(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("without") / "out"
    train(tiny_config(dataset, out))
    return out


def never(*_: object, **__: object) -> None:
    threading.Event().wait()


def fail(*_: object, **__: object) -> None:
    raise ConnectionError("wandb is not there")


def nothing(*_: object, **__: object) -> None:
    return None


@pytest.mark.parametrize(
    ("where", "log", "finish", "says"),
    [
        ("init", fail, nothing, "wandb failed and is left out from here on: wandb is not there"),
        ("init", never, nothing, "wandb did not end within"),
        ("log", fail, nothing, "wandb failed and is left out from here on: wandb is not there"),
        ("log", never, nothing, "wandb did not end within"),
        ("finish", nothing, fail, "wandb failed"),
        ("finish", nothing, never, "wandb did not end within"),
    ],
)
def test_a_service_in_trouble_changes_nothing(
    dataset: Path,
    without: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
    log: Callable[..., Any],
    finish: Callable[..., Any],
    says: str,
) -> None:
    run = types.SimpleNamespace(log=log if where == "log" else nothing, finish=finish)
    service: Any = types.ModuleType("wandb")
    service.init = log if where == "init" else lambda **_: run
    monkeypatch.setitem(sys.modules, "wandb", service)
    monkeypatch.setattr(track, "FINISH_PATIENCE_S", 0.2)
    train(tiny_config(dataset, tmp_path / "out", "wandb.enabled=true"))
    assert without_times(tmp_path / "out") == without_times(without)
    one, other = load_file(without / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert all((value == other[key]).all() for key, value in one.items())
    assert says in caplog.text


def test_a_missing_package_is_one_warning(
    dataset: Path, without: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # what Python itself does for a module that is not there
    train(tiny_config(dataset, tmp_path / "out", "wandb.enabled=true"))
    assert without_times(tmp_path / "out") == without_times(without)
    (line,) = [record.getMessage() for record in caplog.records if "wandb" in record.getMessage()]
    assert "wandb failed and is left out" in line
