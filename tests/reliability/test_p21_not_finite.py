"""A loss or gradient that is not finite changes no weight on any rank, and stops them all, naming step and rank."""

import logging
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.act.network import Act, ActConfig
from common.cli.command import EXIT_USER, UserError
from stage2_train.config import TrainingConfig
from stage2_train.optimizer import Optimizer
from stage2_train.train import train
from tests.reliability.harness import Warm
from tests.stage2_train.tiny import finish, start, stderr, tiny_config, write_dataset


def test_every_rank_stops_when_the_loss_is_not_finite(warm: Warm, tmp_path: Path) -> None:
    dataset, out = write_dataset(tmp_path / "dataset"), tmp_path / "out"
    # So high a rate that the weights explode within a few steps.
    args = (
        "training.lr=1e30",
        "training.log_freq=50",
        "training.steps=50",
        "training.save_freq=1",
        "training.batch_size=2",
    )
    assert finish(start(warm, dataset, out, *args, world_size=2)) == [EXIT_USER, EXIT_USER], stderr(out)
    errors = [line for rank in (0, 1) for line in stderr(out, rank).splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "is not finite at step" in errors[0]
    for checkpoint in out.glob("checkpoint_*"):
        for name, value in load_file(checkpoint / "pretrained_model" / "model.safetensors").items():
            assert value.isfinite().all(), (checkpoint.name, name)


def test_a_bad_loss_of_one_rank_only_stops_the_other_too(warm: Warm, tmp_path: Path) -> None:
    dataset, out = write_dataset(tmp_path / "dataset"), tmp_path / "out"
    args = ("training.batch_size=2", "training.log_freq=6")
    commands = start(warm, dataset, out, *args, world_size=2, module="tests.stage2_train.spoiled")
    assert finish(commands) == [EXIT_USER, EXIT_USER], stderr(out) + stderr(out, 1)
    assert "error: the loss of rank 1 is not finite at step 4, and no weight has changed since" in stderr(out)
    assert not list(out.glob("checkpoint_*"))


def test_a_bad_number_in_a_run_of_one_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    with caplog.at_level(logging.INFO), pytest.raises(UserError, match="is not finite at step"):
        train(tiny_config(dataset, tmp_path / "out", "training.lr=1e30", "training.steps=60", "training.save_freq=60"))


@pytest.fixture
def network() -> Act:
    torch.manual_seed(0)
    return Act(ActConfig(chunk_size=3, dim_model=8, n_heads=2, dim_feedforward=8, n_encoder_layers=1), 2, 2, 0)


def one_step(network: Act, optimizer: Optimizer, step: int, factor: float, offset: float = 0.0) -> None:
    loss = network(torch.ones(1, 2), []).actions_BCA.square().sum() * factor + offset
    optimizer.backward(loss, step)
    optimizer.step(step)


# The last is a loss whose gradients are all finite, as those of an infinite L1 are.
@pytest.mark.parametrize(("factor", "offset"), [(math.nan, 0.0), (math.inf, 0.0), (1.0, math.inf)])
def test_no_update_after_a_bad_step_and_none_is_forgotten(network: Act, factor: float, offset: float) -> None:
    optimizer = Optimizer(network, TrainingConfig(lr=1e-2))
    one_step(network, optimizer, 0, 1.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    moments = {name: value.clone() for name, value in optimizer.tensors().items()}
    one_step(network, optimizer, 1, factor, offset)
    one_step(network, optimizer, 2, 1.0)  # good again, but the host has not looked yet
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(torch.equal(value, moments[name]) for name, value in optimizer.tensors().items())
    assert optimizer.guard.first_2.tolist() == [1.0, 1.0]


def test_float16_halves_its_scale_instead_and_goes_on(network: Act) -> None:
    optimizer = Optimizer(network, TrainingConfig(lr=1e-2, amp="fp16"))
    before = network.action_head.weight.detach().clone()
    one_step(network, optimizer, 0, 1e35)  # finite, but not 65536 times as much
    assert torch.equal(network.action_head.weight, before)
    one_step(network, optimizer, 1, 1.0)
    assert not torch.equal(network.action_head.weight, before)
    assert optimizer.tensors()["scaler/scale_and_good_steps"].tolist() == [2.0**15, 1.0]
    assert optimizer.guard.first_2.tolist() == [math.inf, math.inf]
