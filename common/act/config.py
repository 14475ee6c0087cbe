"""The settings of the ACT network: names, defaults and ranges."""

from typing import Literal, Self

from pydantic import Field, model_validator

from common.cli.config import Section
from common.cli.validation import show


class ActConfig(Section):
    """The settings of the network and of the execution of its chunks; names and defaults are LeRobot's."""

    chunk_size: int = Field(default=100, ge=1, description="actions predicted at once, in frames")
    n_action_steps: int | None = Field(
        default=None, ge=1, description="actions executed from each chunk before the next one; null: all"
    )
    temporal_ensemble_coeff: float | None = Field(
        default=None,
        description="average overlapping chunks with weights exp(-coeff*i), i=0 the oldest; needs n_action_steps 1",
    )
    vision_backbone: Literal["resnet18", "resnet34", "resnet50"] = Field(
        default="resnet18", description="resnet18, resnet34 or resnet50"
    )
    pretrained_backbone_weights: str | None = Field(
        default=None, description="torchvision weights name or a local file to start the backbone from; null: random"
    )
    pre_norm: bool = Field(default=False, description="normalize before each block instead of after it")
    dim_model: int = Field(default=512, ge=4, description="transformer width")
    n_heads: int = Field(default=8, ge=1, description="attention heads; must divide dim_model")
    dim_feedforward: int = Field(default=3200, ge=1, description="width of the feed-forward blocks")
    feedforward_activation: Literal["relu", "gelu"] = Field(default="relu", description="relu or gelu")
    n_encoder_layers: int = Field(default=4, ge=1, le=100, description="transformer encoder layers")
    n_decoder_layers: int = Field(default=1, ge=1, le=100, description="transformer decoder layers")
    use_vae: bool = Field(default=True, description="train with the variational encoder of the action chunk")
    latent_dim: int = Field(default=32, ge=1, description="size of the VAE's latent")
    n_vae_encoder_layers: int = Field(default=4, ge=1, le=100, description="layers of the VAE encoder")
    dropout: float = Field(default=0.1, ge=0, le=1, description="dropout, attention weights included")

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse settings that contradict each other."""
        if self.dim_model % self.n_heads or self.dim_model % 4:
            raise ValueError(
                f"model.dim_model={self.dim_model}: expected a multiple of 4 and of model.n_heads={self.n_heads}"
            )
        if self.n_action_steps is not None and self.n_action_steps > self.chunk_size:
            raise ValueError(
                f"model.n_action_steps={self.n_action_steps}: expected at most model.chunk_size={self.chunk_size}"
            )
        if self.temporal_ensemble_coeff is not None and self.n_action_steps != 1:
            raise ValueError(f"model.n_action_steps={show(self.n_action_steps)}: model.temporal_ensemble_coeff needs 1")
        return self
