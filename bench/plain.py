"""ACT as it is usually written, the baseline of `bench.step` and `bench.gpu`: nn.MultiheadAttention that returns its weights,
contiguous images, separate batch norms. It computes the same function as `common.act.network`.
"""

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.act.network import Act
from common.act.resnet import NORM_EPS, FrozenBatchNorm2d, ResNet
from common.act.transformer import Layer, grid_sinusoid
from stage2_train.loss import act_loss

if TYPE_CHECKING:
    from common.act.config import ActConfig


class PlainLayer(nn.Module):
    """A transformer layer around nn.MultiheadAttention; tokens come first, (T, B, D)."""

    def __init__(self, config: "ActConfig", cross: bool = False) -> None:
        super().__init__()
        width, dropout = config.dim_model, config.dropout
        self.self_attn = nn.MultiheadAttention(width, config.n_heads, dropout=dropout)
        if cross:
            self.multihead_attn = nn.MultiheadAttention(width, config.n_heads, dropout=dropout)
        self.linear1, self.linear2 = nn.Linear(width, config.dim_feedforward), nn.Linear(config.dim_feedforward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if cross else 2))
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        memory: Tensor | None = None,
        memory_position: Tensor | None = None,
        mask: Any = None,
    ) -> Tensor:
        """Attend to itself, to the memory if there is one, and feed forward; normalized after each."""
        key = x + position
        x = self.norms[0](x + self.drop(self.self_attn(key, key, value=x, key_padding_mask=mask)[0]))
        if memory is not None:
            assert memory_position is not None
            update = self.multihead_attn(x + position, memory + memory_position, value=memory)[0]
            x = self.norms[1](x + self.drop(update))
        update = self.linear2(self.drop(F.relu(self.linear1(x))))
        out: Tensor = self.norms[-1](x + self.drop(update))
        return out


class PlainAct(nn.Module):
    """The default network, post-norm, with a VAE and one camera or more."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self.act = act  # linear layers, embeddings and convolutions are taken from it
        config = act.config
        self.vae_layers = nn.ModuleList(_plain_layer(config, layer) for layer in act.vae_encoder.layers)
        self.encoder_layers = nn.ModuleList(_plain_layer(config, layer) for layer in act.encoder.layers)
        self.decoder_layers = nn.ModuleList(_plain_layer(config, layer, True) for layer in act.decoder.layers)
        self.to(act.action_head.weight.device)

    def parameters(self, recurse: bool = True) -> Any:
        """Yield every parameter that the forward pass uses once."""
        replaced = {id(p) for part in ("vae_encoder", "encoder") for p in getattr(self.act, part).parameters()}
        replaced |= {id(p) for p in self.act.decoder.layers.parameters()}
        return (p for p in super().parameters(recurse) if id(p) not in replaced)

    def forward(
        self,
        state: Tensor,
        images: Sequence[Tensor],
        action: Tensor | None = None,
        is_pad: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return actions (B, C, A), mu and log variance (B, L); without an action, the latent is zero."""
        act, batch = self.act, len(state)
        mu = log_variance = None
        latent = state.new_zeros(batch, act.config.latent_dim)
        if action is not None and is_pad is not None and noise is not None:
            mu, log_variance = self._encode_chunk(state, action, is_pad)
            latent = mu + (log_variance / 2).exp() * noise
        rows = [act.encoder_latent_input_proj(latent), act.encoder_robot_state_input_proj(state)]
        positions = [act.encoder_1d_feature_pos_embed.weight[:, None]]
        for image in images:
            features = act.encoder_img_feat_input_proj(plain_backbone(act.backbone, image))
            height, width = features.shape[-2:]
            grid = _grid(height, width, act.config.dim_model, features.device)
            rows.extend(features.flatten(2).permute(2, 0, 1))
            positions.append(grid[:, None])
        x, position = torch.stack(rows), torch.cat(positions)
        for layer in self.encoder_layers:
            x = layer(x, position)
        y = torch.zeros(act.config.chunk_size, batch, act.config.dim_model, device=state.device)
        for layer in self.decoder_layers:
            y = layer(y, act.decoder_pos_embed.weight[:, None], x, position)
        return act.action_head(act.decoder.norm(y)).transpose(0, 1), mu, log_variance

    def _encode_chunk(self, state: Tensor, action: Tensor, is_pad: Tensor) -> tuple[Tensor, Tensor]:
        act, batch = self.act, len(state)
        cls = act.vae_encoder_cls_embed.weight[None].repeat(batch, 1, 1)
        tokens = [
            cls,
            act.vae_encoder_robot_state_input_proj(state)[:, None],
            act.vae_encoder_action_input_proj(action),
        ]
        x = torch.cat(tokens, dim=1).transpose(0, 1)
        position = act.vae_encoder_pos_enc.transpose(0, 1)
        mask = torch.cat([torch.zeros(batch, 2, dtype=torch.bool, device=state.device), is_pad], dim=1)
        for layer in self.vae_layers:
            x = layer(x, position, mask=mask)
        mu, log_variance = act.vae_encoder_latent_output_proj(x[0]).chunk(2, dim=-1)
        return mu, log_variance


def plain_step(act: Act, inputs: Callable[[], list[Any]], amp: bool = False) -> Callable[[], object]:
    """Return one step as it is usually written: foreach AdamW, and four values that the host reads every time.

    `inputs` returns normalized state, images, actions, padding and noise.
    """
    network = PlainAct(copy.deepcopy(act))
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=1e-4, foreach=True)

    def step() -> None:
        state, images, action, is_pad, noise = inputs()
        with torch.autocast(state.device.type, torch.bfloat16, enabled=amp):
            output = network(state, images, action, is_pad, noise)
        loss = act_loss(output, action, is_pad, 10.0)
        loss.total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        optimizer.zero_grad()
        for value in (*loss, norm):
            value.item()  # waits for the device

    return step


def plain_backbone(backbone: ResNet, image: Tensor) -> Tensor:
    """Run the same ResNet in contiguous layout, each batch norm as two operations after its convolution."""
    x = F.max_pool2d(F.relu(_conv_norm(image, backbone.conv1, backbone.bn1)), 3, 2, 1)
    for stage in range(1, 5):
        for block in backbone.get_submodule(f"layer{stage}").children():
            y = F.relu(_conv_norm(x, block.conv1, block.bn1))  # type: ignore[arg-type]
            y = _conv_norm(y, block.conv2, block.bn2)  # type: ignore[arg-type]
            down = block.downsample
            skip = x if down is None else _conv_norm(x, down[0], down[1])  # type: ignore[index, arg-type]
            x = F.relu(y + skip)
    return x


def _conv_norm(x: Tensor, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> Tensor:
    x = F.conv2d(x, conv.weight, None, conv.stride, conv.padding)
    scale = norm.weight.reshape(1, -1, 1, 1) * (norm.running_var.reshape(1, -1, 1, 1) + NORM_EPS).rsqrt()
    return x * scale + (norm.bias.reshape(1, -1, 1, 1) - norm.running_mean.reshape(1, -1, 1, 1) * scale)


@cache
def _grid(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    return grid_sinusoid(height, width, dim).to(device)


def _plain_layer(config: "ActConfig", layer: nn.Module, cross: bool = False) -> PlainLayer:
    assert isinstance(layer, Layer)
    plain = PlainLayer(config, cross)
    norms = [layer.norm1, layer.norm2, *([layer.norm3] if cross else [])]
    pairs = [(plain.self_attn, layer.self_attn), (plain.linear1, layer.linear1), (plain.linear2, layer.linear2)]
    pairs += [(plain.multihead_attn, layer.multihead_attn)] if cross else []
    for copied, original in [*pairs, *zip(plain.norms, norms, strict=True)]:
        copied.load_state_dict(original.state_dict())
    return plain
