"""A loss or gradient that is not finite stops all ranks at the next log or save, and is never written to a checkpoint."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.amp import GradScaler

from common.cli.command import EXIT_USER, UserError
from stage2_train.distributed import World
from stage2_train.step import FiniteCheck
from stage2_train.train import train
from tests.reliability.harness import Warm
from tests.stage2_train.tiny import VALIDATED, finish, start, stderr, tiny_config

DIVERGES = ("training.lr=1e30", "training.steps=60")  # the weights overflow within a few steps


def require_finite_checkpoints(out: Path) -> None:
    for path in out.rglob("*.safetensors"):
        for name, value in load_file(path).items():
            assert value.isfinite().all(), (path, name)


def test_every_rank_stops_when_the_loss_is_not_finite(warm: Warm, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = (*DIVERGES, "training.log_freq=50", "training.save_freq=1", "training.batch_size=2")
    assert finish(start(warm, dataset, out, *args, world_size=2)) == [EXIT_USER, EXIT_USER], stderr(out)
    errors = [line for rank in (0, 1) for line in stderr(out, rank).splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "is not finite at step" in errors[0]
    assert list(out.glob("checkpoint_*"))
    require_finite_checkpoints(out)


def test_a_bad_loss_of_one_rank_only_stops_the_other_too(warm: Warm, dataset: Path, tmp_path: Path) -> None:
    out, args = tmp_path / "out", ("training.batch_size=2", "training.log_freq=6")
    commands = start(warm, dataset, out, *args, world_size=2, module="tests.stage2_train.infinite_action")
    assert finish(commands) == [EXIT_USER, EXIT_USER], stderr(out) + stderr(out, 1)
    assert "error: the loss of rank 1 is not finite at step 4, and no checkpoint was written since" in stderr(out)
    assert not list(out.glob("checkpoint_*"))


@pytest.mark.parametrize("due", ["training.log_freq=10", "training.save_freq=10", "training.val_freq=10"])
def test_whatever_is_due_next_finds_it_and_writes_nothing(dataset: Path, tmp_path: Path, due: str) -> None:
    rare = ("training.log_freq=60", "training.save_freq=60", VALIDATED[0], "training.val_freq=60")
    with pytest.raises(UserError, match=r"is not finite at step [1-9],"):
        train(tiny_config(dataset, tmp_path / "out", *DIVERGES, *rare, due))
    assert (tmp_path / "out" / "metrics.jsonl").read_text() == ""
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def new_check(scaler: GradScaler) -> FiniteCheck:
    return FiniteCheck(World(0, 1, torch.device("cpu")), scaler, lr=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loss", "the loss of rank 0 is not finite at step 3"),
        ("grad_norm", "the gradient norm is not finite at step 3"),
    ],
)
def test_the_first_bad_step_is_named(name: str, message: str, bad: float) -> None:
    check = new_check(GradScaler("cpu", enabled=False))
    for step, value in enumerate([1.0, 1.0, bad, 1.0, bad]):
        values = {"loss": torch.tensor(1.0), "grad_norm": torch.tensor(1.0), name: torch.tensor(value)}
        check.record(step, **values)
        if step < 2:
            check.require()
    with pytest.raises(UserError, match=message):
        check.require()


def test_float16_may_overflow_until_no_loss_scale_is_left() -> None:
    scaler = GradScaler("cpu")
    check = new_check(scaler)
    check.record(0, torch.tensor(1.0), torch.tensor(math.inf))
    check.require()
    scaler.load_state_dict({**scaler.state_dict(), "scale": 0.5})
    with pytest.raises(UserError, match=r"the gradients overflow float16 at every loss scale down to 0\.5"):
        check.require()
