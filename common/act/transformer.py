"""The layers of the ACT network: a transformer whose positions are added to queries and keys, and its sinusoids.

Tensor names end in their axes: B batch, C chunk step, T Q K token, D dim_model, N heads, d width of a head, P positions.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:  # the network itself needs PyTorch alone
    from common.act.config import ActConfig

SINUSOID_BASE = 10_000.0  # Vaswani et al. 2017


class Encoder(nn.Module):
    """A stack of self-attention layers; a final norm only with pre_norm."""

    def __init__(self, config: "ActConfig", n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(n_layers))
        self.norm = nn.LayerNorm(config.dim_model) if config.pre_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, pos_TD: Tensor, mask: Tensor | None = None, n_out: int | None = None) -> Tensor:
        """Return the first `n_out` tokens (all by default); the last layer does not compute the others."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x_BTD = layer(x_BTD, pos_TD, mask=mask, n_out=n_out if i == last else None)
        out_BTD: Tensor = self.norm(x_BTD)
        return out_BTD


class Decoder(nn.Module):
    """A stack of layers that also attend to the encoder's output; it starts from zeros and ends with a norm."""

    def __init__(self, config: "ActConfig") -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, cross=True) for _ in range(config.n_decoder_layers))
        self.norm = nn.LayerNorm(config.dim_model)

    def forward(self, memory_BTD: Tensor, memory_pos_TD: Tensor, pos_CD: Tensor) -> Tensor:
        """Return one token (B, C, D) per learned position `pos_CD`."""
        x_BCD = memory_BTD.new_zeros(memory_BTD.shape[0], *pos_CD.shape)
        key_BTD = memory_BTD + memory_pos_TD
        for layer in self.layers:
            x_BCD = layer(x_BCD, pos_CD, memory=(key_BTD, memory_BTD))
        out_BCD: Tensor = self.norm(x_BCD)
        return out_BCD


class Layer(nn.Module):
    """Self-attention, with `cross` attention to a memory, and a feed-forward block; each with a residual and a norm."""

    def __init__(self, config: "ActConfig", cross: bool = False) -> None:
        super().__init__()
        width = config.dim_model
        self.pre_norm, self.dropout = config.pre_norm, config.dropout
        self.activation = nn.ReLU() if config.feedforward_activation == "relu" else nn.GELU()
        self.self_attn = Attention(config)
        if cross:
            self.multihead_attn = Attention(config)
        self.linear1 = nn.Linear(width, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        if cross:
            self.norm3 = nn.LayerNorm(width)

    def forward(
        self,
        x_BTD: Tensor,
        pos_TD: Tensor,
        memory: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        n_out: int | None = None,
    ) -> Tensor:
        """Return the first `n_out` tokens; positions are added to queries and keys, never to values."""

        def self_attention(x_BTD: Tensor) -> Tensor:
            key_BTD = x_BTD + pos_TD
            out_BTD: Tensor = self.self_attn(key_BTD[:, :n_out], key_BTD, x_BTD, mask)
            return out_BTD

        x_BTD = self._residual(x_BTD, self.norm1, self_attention)
        if memory is None:
            return self._residual(x_BTD, self.norm2, self._feed_forward)
        x_BTD = self._residual(x_BTD, self.norm2, lambda x_BTD: self.multihead_attn(x_BTD + pos_TD, *memory))
        return self._residual(x_BTD, self.norm3, self._feed_forward)

    def _residual(self, x_BTD: Tensor, norm: nn.LayerNorm, block: Callable[[Tensor], Tensor]) -> Tensor:
        update_BTD = self._drop(block(norm(x_BTD) if self.pre_norm else x_BTD))
        x_BTD = x_BTD[:, : update_BTD.shape[1]] + update_BTD
        return x_BTD if self.pre_norm else norm(x_BTD)

    def _feed_forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.linear2(self._drop(self.activation(self.linear1(x_BTD))))
        return out_BTD

    def _drop(self, x_BTD: Tensor) -> Tensor:
        return drop(x_BTD, self.dropout) if self.training else x_BTD


class Attention(nn.Module):
    """Multi-head attention with the parameters and the initialization of nn.MultiheadAttention."""

    def __init__(self, config: "ActConfig") -> None:
        super().__init__()
        width = config.dim_model
        self.n_heads, self.dropout = config.n_heads, config.dropout
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query_BQD: Tensor, key_BKD: Tensor, value_BKD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend (B, Q, D); `mask` is True where a key takes part and broadcasts to (B, N, Q, K)."""
        inputs = (query_BQD, key_BKD, value_BKD)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query_BNQd, key_BNKd, value_BNKd = (
            F.linear(x, weight, bias).view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)
            for x, weight, bias in zip(inputs, weights, biases, strict=True)
        )
        dropout = self.dropout if self.training else 0.0
        out_BNQd = attend(query_BNQd, key_BNKd, value_BNKd, mask, dropout)
        out_BQD: Tensor = self.out_proj(out_BNQd.transpose(1, 2).flatten(2))
        return out_BQD


def attend(query_BNQd: Tensor, key_BNKd: Tensor, value_BNKd: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention (B, N, Q, d) with dropout on the weights."""
    if not (dropout and query_BNQd.is_cpu):
        return F.scaled_dot_product_attention(query_BNQd, key_BNKd, value_BNKd, mask, dropout)
    weight_BNQK = (query_BNQd * query_BNQd.shape[-1] ** -0.5) @ key_BNKd.transpose(-2, -1)
    if mask is not None:
        weight_BNQK = weight_BNQK.masked_fill(~mask, -math.inf)
    return drop(weight_BNQK.softmax(dim=-1), dropout) @ value_BNKd


def drop(x: Tensor, dropout: float) -> Tensor:
    """Zero each element with probability `dropout`, rounded to 16 bits, and scale the others to keep the mean.

    On a CPU, torch draws a random number per element, which took a sixth of a training step; here one serves four.
    torch.compile knows its own dropout only.
    """
    if not (0.0 < dropout < 1.0 and x.is_cpu) or torch.compiler.is_compiling():
        return F.dropout(x, dropout)
    dropped = round(dropout * 2**16)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[: x.numel()].view(x.shape) >= dropped - 2**15
    return x * torch.where(kept, 2**16 / (2**16 - dropped), 0.0).to(x.dtype)


def sinusoid(position_P: Tensor, width: int) -> Tensor:
    """Embed positions (P,) as (P, width) float32: even columns sine, odd columns cosine of the same angle."""
    frequency = SINUSOID_BASE ** (-2 * (torch.arange(width, dtype=torch.float64) // 2) / width)
    angle = position_P.double()[:, None] * frequency
    return torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos()).float()


def grid_sinusoid(height: int, width: int, dim: int) -> Tensor:
    """Embed the cells of a grid, row by row, as (height*width, dim): half for y, half for x (Carion et al. 2020, DETR)."""
    y, x = (sinusoid(torch.arange(1, n + 1) / (n + 1e-6) * 2 * math.pi, dim // 2) for n in (height, width))
    return torch.cat([y[:, None].expand(-1, width, -1), x.expand(height, -1, -1)], dim=-1).flatten(0, 1)
