"""The update is AdamW's on clipped gradients, as LeRobot's, though clipping costs no pass of its own."""

import copy

import pytest
import torch
from torch import nn

from common.act.network import Act, ActConfig, parameter_groups
from stage2_train.config import TrainingConfig
from stage2_train.loss import act_loss
from stage2_train.optimizer import Optimizer
from tests.common.act.test_network import ACTION, EXPECTED, INPUTS, KL_WEIGHT, PAD, STATE, close, golden_model, images


def test_one_step_lands_where_lerobots_does() -> None:
    model = golden_model("").train()
    optimizer = Optimizer(model, TrainingConfig())
    output = model(STATE, images(""), ACTION, PAD, INPUTS["eps"])
    optimizer.backward(act_loss(output, ACTION, PAD, KL_WEIGHT).total, 0)
    _, norm = optimizer.step(0)
    close(norm, EXPECTED["step.total_grad_norm"], rtol=1e-4)
    moved = model.state_dict()
    for key, wanted in EXPECTED.items():
        if key.startswith("step.after.model."):
            close(moved[key.removeprefix("step.after.model.")][: len(wanted)], wanted, atol=1e-6)


@pytest.mark.parametrize("most", [0.0, 1e-3, 1e6])
def test_it_equals_clipping_and_then_adamw(most: float) -> None:
    torch.manual_seed(0)
    ours = Act(
        ActConfig(chunk_size=3, dim_model=8, n_heads=2, dim_feedforward=8, n_encoder_layers=1, dropout=0), 2, 2, 0
    )
    theirs = copy.deepcopy(ours)
    optimizer = Optimizer(ours, TrainingConfig(lr=1e-2, lr_backbone=1e-2, weight_decay=1e-2, grad_clip_norm=most))
    plain = torch.optim.AdamW(parameter_groups(theirs, 1e-2, 1e-2), weight_decay=1e-2)
    for step in range(4):
        state = torch.randn(5, 2)
        optimizer.backward(ours(state, []).actions_BCA.square().sum(), step)
        _, norm = optimizer.step(step)
        theirs(state, []).actions_BCA.square().sum().backward()
        wanted = nn.utils.clip_grad_norm_(theirs.parameters(), most or float("inf"))
        plain.step()
        plain.zero_grad()
        torch.testing.assert_close(norm, wanted, rtol=1e-5, atol=0)
    for (name, value), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # No loss depends on a key's bias, nor on how the decoder's first queries meet its first keys: rounding, scaled up.
        if not name.endswith("in_proj_bias") and "decoder.layers.0.self_attn.in_proj" not in name:
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5, msg=name)


def test_both_groups_follow_the_schedule_in_proportion() -> None:
    network = Act(ActConfig(chunk_size=3, dim_model=8, n_heads=2, dim_feedforward=8, n_encoder_layers=1), 2, 2, 0)
    training = TrainingConfig(steps=10, lr=1e-3, lr_backbone=1e-4, scheduler="cosine", warmup_steps=4, min_lr=1e-4)
    optimizer = Optimizer(network, training, world_size=2)
    for step, factor in ((0, 0.25), (3, 1.0), (9, 0.1)):
        optimizer.backward(network(torch.ones(1, 2), []).actions_BCA.sum(), step)
        lr, _ = optimizer.step(step)
        assert lr == pytest.approx(1e-3 * factor)
        assert [group["lr"] for group in optimizer.groups()] == pytest.approx([1e-3 * factor, 1e-4 * factor])
