"""The ACT network (being written)."""

from dataclasses import dataclass
from typing import Literal

from common.config import option


@dataclass(frozen=True)
class ActConfig:
    """Everything that decides the network and how its chunks are executed; names and defaults are LeRobot's."""

    chunk_size: int = option(100, "actions predicted at once, in frames", low=1)
    n_action_steps: int | None = option(None, "actions executed from each chunk before the next one; null: all", low=1)
    temporal_ensemble_coeff: float | None = option(
        None, "average overlapping chunks with weights exp(-coeff*i), i=0 the oldest; needs n_action_steps 1"
    )
    vision_backbone: Literal["resnet18", "resnet34"] = option("resnet18", "resnet18 or resnet34")
    pretrained_backbone_weights: str | None = option(
        None, "torchvision weights name or a local file to start the backbone from; null: random"
    )
    pre_norm: bool = option(False, "normalise before each block instead of after it")
    dim_model: int = option(512, "transformer width", low=4)
    n_heads: int = option(8, "attention heads; must divide dim_model", low=1)
    dim_feedforward: int = option(3200, "width of the feed-forward blocks", low=1)
    feedforward_activation: Literal["relu", "gelu"] = option("relu", "relu or gelu")
    n_encoder_layers: int = option(4, "transformer encoder layers", low=1)
    n_decoder_layers: int = option(1, "transformer decoder layers", low=1)
    use_vae: bool = option(True, "train with the variational encoder of the action chunk")
    latent_dim: int = option(32, "size of the VAE's latent", low=1)
    n_vae_encoder_layers: int = option(4, "layers of the VAE encoder", low=1)
    dropout: float = option(0.1, "dropout, attention weights included", low=0, high=1)

    def __post_init__(self) -> None:
        """Refuse values that do not fit each other."""
        if self.dim_model % self.n_heads or self.dim_model % 4:
            raise ValueError(
                f"model.dim_model={self.dim_model}: expected a multiple of 4 and of model.n_heads={self.n_heads}"
            )
        if self.n_action_steps is not None and self.n_action_steps > self.chunk_size:
            raise ValueError(
                f"model.n_action_steps={self.n_action_steps}: expected at most model.chunk_size={self.chunk_size}"
            )
        if self.temporal_ensemble_coeff is not None and self.n_action_steps != 1:
            raise ValueError("model.temporal_ensemble_coeff needs model.n_action_steps=1")
