"""The training configuration: every key, its default and what it means."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.act.config import ActConfig
from common.cli.config import Section

Pixels = Annotated[int, Field(ge=32, le=4096)]


class DataConfig(Section):
    """The dataset, and how its images are read."""

    dataset: str = Field(default="/data/lerobot", description="folder of the LeRobot v3.0 dataset")
    rename: dict[str, str] = Field(
        default={},
        description="LeRobot's names of features that the dataset names otherwise, such as {state: observation.state}",
    )
    use_cameras: list[str] | None = Field(
        default=None, description="the cameras to train with, by their short or full names; null: all"
    )
    fps: int | None = Field(
        default=None, ge=1, description="frames per second the dataset must have; null: those that it has"
    )
    episodes: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, description="train on these episodes only; null: all"
    )
    val_fraction: float = Field(
        default=0.0,
        ge=0,
        le=0.9,
        description="fraction of the episodes held out for validation, evenly spaced over the dataset",
    )
    image_stats: Literal["imagenet", "dataset"] = Field(
        default="imagenet", description="statistics that normalize the images: ImageNet's or the dataset's"
    )
    image_size: tuple[Pixels, Pixels] | None = Field(
        default=None, description="[height, width] of the images that the network sees, resized once; null: as stored"
    )
    frame_cache: Literal["auto", "mmap", "none"] = Field(
        default="auto",
        description=(
            "mmap: decode every image once into a memory map; none: decode at every use; auto: mmap where the disk has "
            "room"
        ),
    )
    cache_dir: str | None = Field(default=None, description="folder of the decoded images; null: ~/.cache/bag2act")


class ModelConfig(ActConfig):
    """The network, and where its weights come from."""

    init_from: str | None = Field(
        default=None,
        description="fine-tune this ACT checkpoint, ours or LeRobot's; model keys that are not set are taken from it",
    )

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        """Refuse two sources of weights."""
        if self.init_from and self.pretrained_backbone_weights:
            raise ValueError("model.init_from brings its own backbone; leave model.pretrained_backbone_weights out")
        return self

    @property
    def act(self) -> ActConfig:
        """The settings of the network, without the source of its weights."""
        return ActConfig(**{name: getattr(self, name) for name in ActConfig.model_fields})


class AugmentConfig(Section):
    """Random changes of the images, drawn for every sample and made on the device; all zero: off."""

    brightness: float = Field(default=0.0, ge=0, le=1, description="multiplied by a factor of up to 1 +- this")
    contrast: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="distance from the image's mean gray, multiplied by a factor of up to 1 +- this",
    )
    saturation: float = Field(
        default=0.0, ge=0, le=1, description="distance from gray, multiplied by a factor of up to 1 +- this"
    )
    hue: float = Field(default=0.0, ge=0, le=0.5, description="rotated by up to this fraction of the color circle")
    shift_px: int = Field(
        default=0, ge=0, description="shifted by up to this many pixels along both axes; the edge is repeated"
    )

    @property
    def enabled(self) -> bool:
        """Whether any setting changes the images."""
        return any(dict(self).values())


class TrainingConfig(Section):
    """How long, how fast, and where the results go."""

    steps: int = Field(default=5000, ge=1, description="optimizer steps")
    batch_size: int = Field(
        default=4,
        ge=1,
        description=(
            "samples per step in each process; the global batch is this times the number of processes times "
            "grad_accumulation"
        ),
    )
    grad_accumulation: int = Field(
        default=1, ge=1, description="batches whose gradients are summed for one optimizer step"
    )
    scale_lr: bool = Field(
        default=False, description="multiply both learning rates and min_lr by the number of processes"
    )
    lr: float = Field(default=1e-5, ge=0, description="learning rate of everything but the backbone")
    lr_backbone: float = Field(default=1e-5, ge=0, description="learning rate of the vision backbone")
    weight_decay: float = Field(default=1e-4, ge=0, description="AdamW's decoupled weight decay")
    kl_weight: float = Field(default=10.0, ge=0, description="weight of the VAE's KL divergence in the loss")
    l1_rule: Literal["valid", "all"] = Field(
        default="valid", description="valid: mean of |error| over valid steps; all: over padding too (LeRobot <= 0.5.1)"
    )
    grad_clip_norm: float = Field(default=10.0, ge=0, description="gradients are scaled down to this norm")
    scheduler: Literal["none", "cosine"] = Field(
        default="none", description="none: constant lr; cosine: linear warm-up, then cosine decay to min_lr"
    )
    warmup_steps: int = Field(default=500, ge=0, description="steps of the linear warm-up (cosine only)")
    min_lr: float = Field(default=1e-7, ge=0, description="lr at the last step (cosine only)")
    save_freq: int = Field(default=1000, ge=1, description="steps between checkpoints; the last step is always saved")
    save_every_min: float = Field(
        default=0.0,
        ge=0,
        description="also save whenever this many minutes have passed since the last checkpoint; 0: never",
    )
    keep_last: int = Field(default=0, ge=0, description="number of newest checkpoints that are kept; 0: all")
    val_freq: int = Field(
        default=500,
        ge=1,
        description="steps between evaluations of the loss on the held-out episodes; also evaluated at the end",
    )
    log_freq: int = Field(default=50, ge=1, description="steps between log lines")
    resume: str = Field(
        default="auto",
        description=(
            "auto (or true): resume from the newest complete checkpoint in output_dir; never (or false); or the folder of a "
            "run, of a checkpoint or of its pretrained_model"
        ),
    )
    seed: int = Field(default=1000, ge=0, description="seed of weights, data order, noise and dropout")
    num_workers: int = Field(default=2, ge=0, description="threads that prepare batches ahead; 0: none")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda if available, else cpu")
    amp: Literal["none", "bf16", "fp16"] = Field(
        default="none",
        description="precision of the network's computation; weights, loss and optimizer stay float32 (fp16: CUDA only)",
    )
    compile: bool = Field(
        default=False, description="compile the network with torch.compile; the first step takes minutes"
    )
    deterministic: bool = Field(
        default=False, description="use only operations that give the same bits every time on a GPU; slower"
    )
    ddp_bucket_mb: int = Field(
        default=0, ge=0, description="size of the buckets in which gradients are averaged; 0: one bucket"
    )
    tensorboard: bool = Field(
        default=False, description="log to TensorBoard in output_dir/tensorboard; needs the package tensorboard"
    )
    output_dir: str = Field(default="/output/train-rosbag-act", description="folder of checkpoints and metrics")

    @field_validator("resume", mode="before")
    @classmethod
    def _read_resume(cls, resume: Any) -> Any:
        """Take true and false for auto and never."""
        return {"true": "auto", "false": "never"}.get(str(resume).lower(), resume)

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse settings that contradict each other."""
        if not self.resume:
            raise ValueError("training.resume is empty: expected auto, never or the folder of a checkpoint")
        if self.scheduler == "cosine" and self.warmup_steps > self.steps:
            raise ValueError(
                f"training.warmup_steps={self.warmup_steps} is longer than the run, training.steps={self.steps}; "
                "lower the one or raise the other"
            )
        if self.scheduler == "cosine" and self.min_lr > self.lr:
            raise ValueError(f"training.min_lr={self.min_lr:g}: expected at most training.lr={self.lr:g}")
        return self


class WandbConfig(Section):
    """Weights & Biases, imported only when enabled."""

    enabled: bool = Field(default=False, description="log to Weights & Biases from rank 0")
    project: str = Field(default="ur10e-act-train", description="project name")
    run_name: str | None = Field(default=None, description="run name; null: generated")
    tags: list[str] = Field(default=["osmo"], description="tags of the run")
    mode: Literal["online", "offline", "disabled"] | None = Field(
        default=None, description="online, offline (a local folder) or disabled; null: $WANDB_MODE, else online"
    )


class TrainConfig(Section):
    """Everything `--config` and `--override` can set."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig()
    wandb: WandbConfig = WandbConfig()
