"""The ACT network: predicts a chunk of actions from the state and the images.

Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware", with LeRobot's parameter names.
Tensor names end in their axes: B batch, C chunk step, A action, S state, E environment state, T token, D dim_model,
L latent, N heads, d width of a head, H W pixels or cells, F backbone channels, P fixed positions.
"""

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.act.resnet import ResNet

if TYPE_CHECKING:  # the network itself needs PyTorch alone
    from common.act.config import ActConfig

SINUSOID_BASE = 10_000.0  # Vaswani et al. 2017


class ActOutput(NamedTuple):
    """The predicted chunk, normalized, and the VAE's posterior when actions were given."""

    actions_BCA: Tensor
    mu_BL: Tensor | None
    log_variance_BL: Tensor | None


class Act(nn.Module):
    """The complete network; its state dict has LeRobot's names, without the leading `model.`, in LeRobot's order.

    Random numbers come from torch's global generator: seed it before building, and before a step with dropout.
    """

    vae_encoder_pos_enc: Tensor

    def __init__(
        self, config: "ActConfig", state_dim: int, action_dim: int, n_cameras: int, environment_dim: int = 0
    ) -> None:
        super().__init__()
        width = config.dim_model
        self.config = config
        self.n_cameras = n_cameras
        self.environment_dim = environment_dim
        # The order of these lines is the order of the parameters, by which optimizer states are stored.
        if config.use_vae:
            self.vae_encoder = Encoder(config, config.n_vae_encoder_layers)
            self.vae_encoder_cls_embed = nn.Embedding(1, width)
            self.vae_encoder_robot_state_input_proj = nn.Linear(state_dim, width)
            self.vae_encoder_action_input_proj = nn.Linear(action_dim, width)
            self.vae_encoder_latent_output_proj = nn.Linear(width, 2 * config.latent_dim)
            self.register_buffer("vae_encoder_pos_enc", sinusoid(torch.arange(2 + config.chunk_size), width)[None])
        if n_cameras:
            self.backbone = ResNet(config.vision_backbone)
        self.encoder = Encoder(config, config.n_encoder_layers)
        self.decoder = Decoder(config)
        self.encoder_robot_state_input_proj = nn.Linear(state_dim, width)
        if environment_dim:
            self.encoder_env_state_input_proj = nn.Linear(environment_dim, width)
        self.encoder_latent_input_proj = nn.Linear(config.latent_dim, width)
        if n_cameras:
            self.encoder_img_feat_input_proj = nn.Conv2d(self.backbone.channels, width, 1)
        self.encoder_1d_feature_pos_embed = nn.Embedding(3 if environment_dim else 2, width)
        self.decoder_pos_embed = nn.Embedding(config.chunk_size, width)
        self.action_head = nn.Linear(width, action_dim)
        for parameter in chain(self.encoder.parameters(), self.decoder.parameters()):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self._grids: dict[tuple[Any, ...], Tensor] = {}

    def forward(
        self,
        state_BS: Tensor,
        images: Sequence[Tensor],
        action_BCA: Tensor | None = None,
        action_is_pad_BC: Tensor | None = None,
        noise_BL: Tensor | None = None,
        environment_BE: Tensor | None = None,
    ) -> ActOutput:
        """Predict the chunk of normalized actions (B, chunk_size, A).

        `images` holds one (B, 3, H, W) tensor per camera; every input is normalized. With `use_vae` and an action
        the latent is mu + exp(log_variance / 2) * `noise_BL`; otherwise it is zero and there is no posterior. The VAE
        encoder does not attend to steps where `action_is_pad_BC` is True.
        """
        assert len(images) == self.n_cameras, f"built for {self.n_cameras} cameras, given {len(images)}"
        mu_BL = log_variance_BL = None
        if self.config.use_vae and action_BCA is not None:
            assert noise_BL is not None, "encoding an action chunk needs noise"
            mu_BL, log_variance_BL = self._encode_chunk(state_BS, action_BCA, action_is_pad_BC)
            latent_BL = mu_BL + (log_variance_BL / 2).exp() * noise_BL
        else:
            latent_BL = state_BS.new_zeros(state_BS.shape[0], self.config.latent_dim)
        x_BTD, pos_TD = self._tokens(latent_BL, state_BS, environment_BE, images)
        memory_BTD = self.encoder(x_BTD, pos_TD)
        y_BCD = self.decoder(memory_BTD, pos_TD, self.decoder_pos_embed.weight)
        return ActOutput(self.action_head(y_BCD), mu_BL, log_variance_BL)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the image backbone, which have their own learning rate; none without cameras."""
        return list(self.backbone.parameters()) if self.n_cameras else []

    def freeze(self) -> "Act":
        """Prepare for inference and return this network: eval mode, no gradients, batch norms folded once.

        The state dict does not change. Folding at every call would double the time at batch 1 and 64x96 on a CPU.
        """
        self.eval().requires_grad_(False)
        if self.n_cameras:
            self.backbone.fold()
        return self

    def _encode_chunk(
        self, state_BS: Tensor, action_BCA: Tensor, action_is_pad_BC: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        cls_B1D = self.vae_encoder_cls_embed.weight.expand(len(state_BS), 1, -1)
        state_B1D = self.vae_encoder_robot_state_input_proj(state_BS)[:, None]
        x_BTD = torch.cat([cls_B1D, state_B1D, self.vae_encoder_action_input_proj(action_BCA)], dim=1)
        mask = None
        if action_is_pad_BC is not None:
            mask = F.pad(~action_is_pad_BC, (2, 0), value=True)[:, None, None]
        cls_B1D = self.vae_encoder(x_BTD, self.vae_encoder_pos_enc, mask, n_out=1)
        mu_BL, log_variance_BL = self.vae_encoder_latent_output_proj(cls_B1D[:, 0]).chunk(2, dim=-1)
        return mu_BL, log_variance_BL

    def _tokens(
        self, latent_BL: Tensor, state_BS: Tensor, environment_BE: Tensor | None, images: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the encoder's input (B, T, D) and its positions (T, D): latent, state, environment, cells by camera."""
        vectors = [self.encoder_latent_input_proj(latent_BL), self.encoder_robot_state_input_proj(state_BS)]
        if self.environment_dim:
            assert environment_BE is not None, "built with an environment state, given none"
            vectors.append(self.encoder_env_state_input_proj(environment_BE))
        tokens, positions = [torch.stack(vectors, dim=1)], [self.encoder_1d_feature_pos_embed.weight]
        for features_BFHW in self._features(images):
            # In channels_last the cells are rows already: the 1x1 convolution is a matrix product without a copy.
            rows_BTF = features_BFHW.permute(0, 2, 3, 1).flatten(1, 2)
            proj = self.encoder_img_feat_input_proj
            tokens.append(F.linear(rows_BTF, proj.weight.flatten(1), proj.bias))
            positions.append(self._grid(*features_BFHW.shape[-2:]))
        return torch.cat(tokens, dim=1), torch.cat(positions)

    def _features(self, images: Sequence[Tensor]) -> Sequence[Tensor]:
        if len(images) > 1 and all(image.shape == images[0].shape for image in images):
            features: Tensor = self.backbone(torch.cat(list(images)))
            return features.view(len(images), -1, *features.shape[1:]).unbind()
        return [self.backbone(image) for image in images]

    def _grid(self, height: int, width: int) -> Tensor:
        """Return positions (H*W, D) of a feature map's cells, computed once per size, device and type."""
        like = self.encoder_1d_feature_pos_embed.weight
        key = (height, width, like.device, like.dtype)
        if key not in self._grids:
            with torch.inference_mode(False):  # a tensor created in inference mode could not be used in training
                self._grids[key] = grid_sinusoid(height, width, self.config.dim_model).to(like)
        return self._grids[key]


def parameter_groups(model: Act, lr: float, lr_backbone: float) -> list[dict[str, Any]]:
    """Return two AdamW groups in LeRobot's order: all but the backbone, then the backbone (empty without cameras)."""
    backbone = model.backbone_parameters()
    ids = {id(parameter) for parameter in backbone}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    return [{"params": rest, "lr": lr}, {"params": backbone, "lr": lr_backbone}]


def sinusoid(position_P: Tensor, width: int) -> Tensor:
    """Embed positions (P,) as (P, width) float32: even columns sine, odd columns cosine of the same angle."""
    frequency = SINUSOID_BASE ** (-2 * (torch.arange(width, dtype=torch.float64) // 2) / width)
    angle = position_P.double()[:, None] * frequency
    return torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos()).float()


def grid_sinusoid(height: int, width: int, dim: int) -> Tensor:
    """Embed the cells of a grid, row by row, as (height*width, dim): half for y, half for x (Carion et al. 2020, DETR)."""
    y, x = (sinusoid(torch.arange(1, n + 1) / (n + 1e-6) * 2 * math.pi, dim // 2) for n in (height, width))
    return torch.cat([y[:, None].expand(-1, width, -1), x.expand(height, -1, -1)], dim=-1).flatten(0, 1)


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
