"""The ACT network: predicts a chunk of actions from the state and the images.

Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware", with LeRobot's parameter names.
Tensor names end in their axes: B batch, C chunk step, A action, S state, E environment state, T token, D dim_model,
L latent, H W pixels or cells, F backbone channels.
"""

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.act.resnet import ResNet
from common.act.transformer import Decoder, Encoder, grid_sinusoid, sinusoid

if TYPE_CHECKING:  # the network itself needs PyTorch alone
    from common.act.config import ActConfig


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
