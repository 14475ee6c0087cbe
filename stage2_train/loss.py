"""The loss of ACT: L1 error of the predicted chunk plus the weighted KL divergence of the VAE's posterior.

Tensor names end in their axes: B batch, C chunk step, A action, L latent.
"""

from typing import Literal, NamedTuple

from torch import Tensor


class Loss(NamedTuple):
    """Scalars on the output's device; only `total` is meant for backward()."""

    total: Tensor
    l1: Tensor
    kl: Tensor


def act_loss(
    output: tuple[Tensor, Tensor | None, Tensor | None],
    action_BCA: Tensor,
    action_is_pad_BC: Tensor,
    kl_weight: float,
    valid_count: int | None = None,
    parts: int = 1,
    l1_rule: Literal["valid", "all"] = "valid",
) -> Loss:
    """L1 between the chunks plus `kl_weight` times the KL divergence of the posterior from N(0, 1).

    `output` is (actions (B, C, A), mu (B, L) or None, log variance (B, L) or None); without a posterior the KL is zero.
    Padded steps cost nothing. `l1_rule` says what the sum is divided by: the valid steps (LeRobot from 0.6.0 on) or
    every step, padded ones too (LeRobot up to 0.5.1 and Zhao et al. 2023). The KL is a sum over the latent and a mean
    over the batch, whatever is padded.

    When the global batch is split evenly into `parts`, over ranks or accumulation steps, give `valid_count`, the valid
    steps of the global batch: the mean of the parts' losses, and so of their gradients, is then that of the global batch.
    """
    actions_BCA, mu_BL, log_variance_BL = output
    error_BCA = (actions_BCA - action_BCA).abs().masked_fill(action_is_pad_BC[..., None], 0.0)
    if l1_rule == "all":
        l1 = error_BCA.mean()
    elif valid_count is None:
        valid = (~action_is_pad_BC).sum().clamp(min=1)
        l1 = error_BCA.sum() / (valid * action_BCA.shape[-1])
    else:
        l1 = error_BCA.sum() * (parts / (max(valid_count, 1) * action_BCA.shape[-1]))
    if mu_BL is None or log_variance_BL is None:
        return Loss(l1, l1, l1.new_zeros(()))
    mu_BL, log_variance_BL = mu_BL.to(l1.dtype), log_variance_BL.to(l1.dtype)  # a sum in half precision would be coarse
    kl_B = -0.5 * (1 + log_variance_BL - mu_BL.square() - log_variance_BL.exp()).sum(dim=-1)
    kl = kl_B.mean()
    return Loss(l1 + kl_weight * kl, l1, kl)
