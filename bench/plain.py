"""ACT as it is usually written, the other side of `bench.step`, `bench.gpu` and `bench.eval`: nn.MultiheadAttention that
returns its weights, contiguous images, separate batch norms. It computes the same function as `common.act.network`.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.act.network import Act
from common.act.resnet import NORM_EPS, FrozenBatchNorm2d, ResNet
from common.act.transformer import Attention, Layer
from stage2_train.loss import act_loss


def plain_act(act: Act) -> Act:
    """Return a copy of the network, which is post-norm, with plain layers and a plain backbone."""
    plain = copy.deepcopy(act)
    for stack in (plain.vae_encoder, plain.encoder, plain.decoder):
        stack.layers = nn.ModuleList(PlainLayer(layer) for layer in stack.layers)  # type: ignore[arg-type]
    plain.backbone.forward = partial(plain_backbone, plain.backbone)  # type: ignore[method-assign]
    return plain.to(act.action_head.weight.device).train(act.training)


class PlainLayer(nn.Module):
    """Takes what `Layer` takes, and computes all tokens whatever `n_out` says; norms and linear layers are the layer's."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.self_attn = _plain_attention(layer.self_attn)
        self.norms = nn.ModuleList([layer.norm1, layer.norm2])
        if hasattr(layer, "multihead_attn"):
            self.multihead_attn = _plain_attention(layer.multihead_attn)
            self.norms.append(layer.norm3)
        self.linear1, self.linear2 = layer.linear1, layer.linear2
        self.drop = nn.Dropout(layer.dropout)

    def forward(
        self,
        x_BTD: Tensor,
        pos_TD: Tensor,
        memory: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        """Attend to itself, to the memory if there is one, and feed forward; normalized after each."""
        key_BTD = x_BTD + pos_TD
        is_pad_BT = None if mask is None else ~mask[:, 0, 0]
        update_BTD = self.self_attn(key_BTD, key_BTD, x_BTD, key_padding_mask=is_pad_BT)[0]
        x_BTD = self.norms[0](x_BTD + self.drop(update_BTD))
        if memory is not None:
            update_BTD = self.multihead_attn(x_BTD + pos_TD, *memory)[0]
            x_BTD = self.norms[1](x_BTD + self.drop(update_BTD))
        update_BTD = self.linear2(self.drop(F.relu(self.linear1(x_BTD))))
        out_BTD: Tensor = self.norms[-1](x_BTD + self.drop(update_BTD))
        return out_BTD


def plain_step(act: Act, inputs: Callable[[], list[Any]], amp: bool = False) -> Callable[[], object]:
    """Return one step as it is usually written: foreach AdamW, and four values that the host reads every time.

    `inputs` returns normalized state, images, actions, padding and noise.
    """
    network = plain_act(act)
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
    x = F.max_pool2d(F.relu(_conv_norm(image.contiguous(), backbone.conv1, backbone.bn1)), 3, 2, 1)
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


def _plain_attention(attention: Attention) -> nn.MultiheadAttention:
    width, dropout = attention.out_proj.in_features, attention.dropout
    plain = nn.MultiheadAttention(width, attention.n_heads, dropout=dropout, batch_first=True)
    plain.load_state_dict(attention.state_dict())
    return plain
