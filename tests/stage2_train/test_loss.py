"""The loss counts what was recorded, and means the same on one rank and on many."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stage2_train.loss import act_loss

ACTION_BCA = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], [[0.0, 0.0], [9.0, 9.0], [9.0, 9.0]]])
PAD_BC = torch.tensor([[False, False, True], [False, True, True]])
CHUNK_BCA = torch.zeros(2, 3, 2)


def random_batch(batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    chunk, action = torch.randn(2, batch, 5, 3, generator=generator, dtype=torch.float64)
    mu, log_variance = torch.randn(2, batch, 4, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 6, (batch, 1), generator=generator)
    return chunk, mu, log_variance, action, torch.arange(5) >= lengths


@pytest.mark.parametrize(("l1_rule", "count"), [("valid", 6), ("all", 12)])
def test_l1_is_the_mean_over_recorded_steps_or_by_the_old_rule_over_all(l1_rule: Any, count: int) -> None:
    loss = act_loss((CHUNK_BCA, None, None), ACTION_BCA, PAD_BC, kl_weight=10, l1_rule=l1_rule)
    assert loss.l1.item() == pytest.approx((1 + 2 + 3 + 4) / count)
    assert (loss.kl.item(), loss.total.item()) == (0, loss.l1.item())  # there is no posterior


def test_padded_steps_have_no_gradient() -> None:
    chunk = CHUNK_BCA.clone().requires_grad_()
    act_loss((chunk, None, None), ACTION_BCA, PAD_BC, kl_weight=10).total.backward()  # type: ignore[no-untyped-call]
    assert chunk.grad is not None
    assert chunk.grad[PAD_BC].count_nonzero() == 0
    assert chunk.grad[0, 0].tolist() == pytest.approx([-1 / 6, -1 / 6])


def test_batch_of_padding_alone_costs_nothing_and_is_finite() -> None:
    everything = torch.ones_like(PAD_BC)
    assert act_loss((CHUNK_BCA, None, None), ACTION_BCA, everything, kl_weight=10).total.item() == 0
    assert act_loss((CHUNK_BCA, None, None), ACTION_BCA, everything, kl_weight=10, valid_count=0).total.item() == 0


def test_kl_equals_torchs_own_divergence() -> None:
    chunk, mu, log_variance, action, pad = random_batch(3)
    loss = act_loss((chunk, mu, log_variance), action, pad, kl_weight=10)
    posterior = torch.distributions.Normal(mu, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(dim=1).mean()
    assert loss.kl.item() == pytest.approx(divergence.item())
    assert loss.total.item() == pytest.approx(loss.l1.item() + 10 * divergence.item())


@pytest.mark.parametrize("l1_rule", ["valid", "all"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_mean_over_ranks_is_the_loss_and_gradient_of_the_global_batch(l1_rule: str, world_size: int) -> None:
    chunk, mu, log_variance, action, pad = random_batch(8)
    leaves = [chunk.requires_grad_(), mu.requires_grad_(), log_variance.requires_grad_()]
    whole = act_loss((chunk, mu, log_variance), action, pad, 10, l1_rule=l1_rule).total  # type: ignore[arg-type]
    valid = int((~pad).sum())
    shards = zip(*(x.chunk(world_size) for x in (chunk, mu, log_variance, action, pad)), strict=True)
    parts = [
        act_loss((c, m, v), a, p, 10, valid, world_size, l1_rule).total  # type: ignore[arg-type]
        for c, m, v, a, p in shards
    ]
    mean = torch.stack(parts).mean()
    torch.testing.assert_close(mean, whole)
    torch.testing.assert_close(torch.autograd.grad(mean, leaves), torch.autograd.grad(whole, leaves))


def test_half_precision_output_is_summed_in_the_actions_precision() -> None:
    chunk, mu, log_variance, action, pad = (x.float() if x.is_floating_point() else x for x in random_batch(64))
    half = chunk.bfloat16(), mu.bfloat16(), log_variance.bfloat16()
    loss = act_loss(half, action, pad, kl_weight=10)
    wanted = act_loss((half[0].float(), half[1].float(), half[2].float()), action, pad, kl_weight=10)
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss, wanted)
