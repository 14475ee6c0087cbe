"""wandb may be missing, hang or fail: checkpoints and metrics.jsonl are those of a run without it."""

import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stage2_train.tracking import services
from stage2_train.train import train
from tests.stage2_train.tiny import VALIDATED, content, tiny_config, without_times


def hang(*_: object, **__: object) -> None:
    threading.Event().wait()


def fail(*_: object, **__: object) -> None:
    raise ConnectionError("wandb is not there")


def succeed(*_: object, **__: object) -> None:
    return None


FAILED = "wandb failed and is disabled for the rest of this run: "
HUNG = "wandb did not finish within 0.2 s and is abandoned"


@pytest.mark.parametrize(
    ("call", "trouble", "warning"),
    [
        ("import", None, FAILED),
        ("init", fail, FAILED + "wandb is not there"),
        ("log", fail, FAILED + "wandb is not there"),
        ("log", hang, HUNG),
        ("finish", hang, HUNG),
    ],
)
def test_a_service_that_is_missing_fails_or_hangs_changes_nothing(
    dataset: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
    trouble: Callable[..., Any] | None,
    warning: str,
) -> None:
    run = types.SimpleNamespace(log=succeed, finish=succeed)
    wandb: Any = types.ModuleType("wandb")
    wandb.init = lambda **_: run
    setattr(wandb if call == "init" else run, call, trouble)
    monkeypatch.setitem(
        sys.modules, "wandb", wandb if trouble else None
    )  # None is what Python sets for a missing module
    monkeypatch.setattr(services, "CLOSE_TIMEOUT_S", 0.2)
    train(tiny_config(dataset, tmp_path / "out", *VALIDATED, "wandb.enabled=true"))
    assert without_times(tmp_path / "out") == without_times(whole)
    assert content(tmp_path / "out") == content(whole)
    (line,) = [record.getMessage() for record in caplog.records if "wandb" in record.getMessage()]
    assert line.startswith(warning)
