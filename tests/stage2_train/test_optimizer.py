"""The update is AdamW on clipped gradients, as in LeRobot; the learning rate follows its schedule."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.act.config import ActConfig
from common.act.network import Act, parameter_groups
from stage2_train.config import TrainingConfig
from stage2_train.loss import act_loss
from stage2_train.optimizer import SCALER_STATE, Optimizer, learning_rate_factor
from tests.common.act.test_network import ACTION, EXPECTED, INPUTS, KL_WEIGHT, PAD, STATE, close, golden_model, images


def small_network(dropout: float = 0.1) -> Act:
    torch.manual_seed(0)
    config = ActConfig(chunk_size=3, dim_model=8, n_heads=2, dim_feedforward=8, n_encoder_layers=1, dropout=dropout)
    return Act(config, 2, 2, 0)


def train_step(network: Act, optimizer: Optimizer, step: int, factor: float = 1.0) -> float:
    optimizer.backward(network(torch.ones(1, 2), []).actions_BCA.square().sum() * factor)
    lr, _ = optimizer.step(step)
    return lr


def test_one_step_gives_the_weights_of_lerobots_step() -> None:
    model = golden_model("").train()
    optimizer = Optimizer(model, TrainingConfig())
    output = model(STATE, images(""), ACTION, PAD, INPUTS["eps"])
    optimizer.backward(act_loss(output, ACTION, PAD, KL_WEIGHT).total)
    _, norm = optimizer.step(0)
    close(norm, EXPECTED["step.total_grad_norm"], rtol=1e-4)
    weights = model.state_dict()
    for key, expected in EXPECTED.items():
        if key.startswith("step.after.model."):
            close(weights[key.removeprefix("step.after.model.")][: len(expected)], expected, atol=1e-6)


@pytest.mark.parametrize("max_norm", [0.0, 1e-3, 1e6])
def test_the_update_equals_clipping_and_adamw(max_norm: float) -> None:
    network = small_network(dropout=0)
    reference = copy.deepcopy(network)
    optimizer = Optimizer(
        network, TrainingConfig(lr=1e-2, lr_backbone=1e-2, weight_decay=1e-2, grad_clip_norm=max_norm)
    )
    adamw = torch.optim.AdamW(parameter_groups(reference, 1e-2, 1e-2), weight_decay=1e-2)
    for step in range(4):
        state = torch.randn(5, 2)
        optimizer.backward(network(state, []).actions_BCA.square().sum())
        _, norm = optimizer.step(step)
        reference(state, []).actions_BCA.square().sum().backward()
        expected = nn.utils.clip_grad_norm_(reference.parameters(), max_norm or float("inf"))
        adamw.step()
        adamw.zero_grad()
        torch.testing.assert_close(norm, expected, rtol=1e-5, atol=0)
    for (name, value), other in zip(network.named_parameters(), reference.parameters(), strict=True):
        # No loss depends on a key's bias, nor on how the decoder's first queries meet its first keys: rounding, scaled up.
        if not name.endswith("in_proj_bias") and "decoder.layers.0.self_attn.in_proj" not in name:
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("scale_lr", [False, True])
def test_both_groups_follow_the_schedule_in_proportion_and_the_number_of_processes(scale_lr: bool) -> None:
    network = small_network()
    training = TrainingConfig(
        steps=10, lr=1e-3, lr_backbone=1e-4, scheduler="cosine", warmup_steps=4, min_lr=1e-4, scale_lr=scale_lr
    )
    optimizer = Optimizer(network, training, world_size=2)
    peak = 2e-3 if scale_lr else 1e-3
    for step, factor in ((0, 0.25), (3, 1.0), (9, 0.1)):
        assert train_step(network, optimizer, step) == pytest.approx(peak * factor)
        assert [group["lr"] for group in optimizer.groups()] == pytest.approx([peak * factor, peak * factor / 10])


def test_float16_skips_an_overflow_halves_the_loss_scale_and_keeps_it_in_the_checkpoint() -> None:
    network, training = small_network(), TrainingConfig(lr=1e-2, amp="fp16")
    optimizer = Optimizer(network, training)
    before = network.action_head.weight.detach().clone()
    train_step(network, optimizer, 0, factor=1e35)  # finite, but not 65536 times as much
    assert torch.equal(network.action_head.weight, before)
    train_step(network, optimizer, 1)
    assert not torch.equal(network.action_head.weight, before)
    assert optimizer.tensors()[SCALER_STATE].tolist() == [2.0**15, 1.0]
    resumed = Optimizer(copy.deepcopy(network), training)
    resumed.load(optimizer.tensors())
    assert resumed.tensors()[SCALER_STATE].tolist() == [2.0**15, 1.0]


def cosine(steps: int, warmup_steps: int, floor: float) -> list[float]:
    return [learning_rate_factor(step, steps, warmup_steps, floor, "cosine") for step in range(steps)]


def test_cosine_schedule_of_ten_steps_with_a_warm_up_of_four() -> None:
    fall = [0.1 + 0.9 * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(1, 7)]
    assert cosine(10, 4, 0.1) == pytest.approx([0.25, 0.5, 0.75, 1.0, *fall])


def test_none_is_constant_without_warm_up() -> None:
    assert {learning_rate_factor(step, 10, 4, 0.1, "none") for step in range(10)} == {1.0}


def test_a_training_that_is_extended_stays_at_the_floor() -> None:
    assert learning_rate_factor(250, 100, 10, 0.2, "cosine") == pytest.approx(0.2)


@pytest.mark.parametrize("warmup_steps", [5, 8])
def test_a_training_no_longer_than_its_warm_up_only_rises(warmup_steps: int) -> None:
    assert cosine(5, warmup_steps, 0.1) == pytest.approx([(i + 1) / warmup_steps for i in range(5)])


@st.composite
def schedules(draw: st.DrawFn) -> tuple[int, int, float]:
    """Steps, a warm-up that ends before them, and a floor."""
    steps = draw(st.integers(2, 400))
    return steps, draw(st.integers(0, steps - 1)), draw(st.floats(0, 1))


@given(schedules())
def test_the_rate_rises_to_its_peak_then_falls_to_the_floor_without_jumps(schedule: tuple[int, int, float]) -> None:
    steps, warmup_steps, floor = schedule
    rates = cosine(steps, warmup_steps, floor)
    peak = max(warmup_steps - 1, 0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[peak] == 1.0
    assert rates[-1] == pytest.approx(floor)
    assert all(0 < rate <= 1 for rate in rates[:-1])
    assert min(rates[peak:]) >= floor - 1e-12
    fall = max(steps - max(warmup_steps, 1), 1)
    steepest = max(1 / max(warmup_steps, 1), math.pi / 2 * (1 - floor) / fall)
    assert all(abs(b - a) <= steepest + 1e-12 for a, b in itertools.pairwise(rates))
