"""The training configuration: every key, its default and what it means."""

from dataclasses import dataclass, fields
from typing import Literal

from common.act.network import ActConfig
from common.cli.config import option, section


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    dataset: str = option("/data/lerobot", "folder of the LeRobot v3.0 dataset")
    fps: int = option(30, "frames per second the dataset must have", low=1)
    episodes: list[int] | None = option(None, "train on these episodes only; null: all", low=0)
    val_fraction: float = option(0.0, "share of the episodes held out, evenly spaced over the dataset", low=0, high=0.9)
    image_stats: Literal["imagenet", "dataset"] = option(
        "imagenet", "what images are normalized by: imagenet or dataset"
    )
    image_size: list[int] | None = option(
        None, "[height, width] the network sees, resized once; null: as stored", low=32, high=4096
    )
    frame_cache: Literal["auto", "mmap", "none"] = option(
        "auto",
        "mmap: decode every image once into a memory map; none: decode again at every use; "
        "auto: mmap where the disk has room",
    )
    cache_dir: str | None = option(None, "where decoded images are kept; null: ~/.cache/bag2act")

    def __post_init__(self) -> None:
        """Refuse a size that is not one."""
        if self.image_size is not None and len(self.image_size) != 2:
            raise ValueError(f"data.image_size={self.image_size}: expected [height, width] or null")

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the images, None as they are stored."""
        return (self.image_size[0], self.image_size[1]) if self.image_size else None


@dataclass(frozen=True)
class ModelConfig(ActConfig):
    """The network, and where its weights come from."""

    init_from: str | None = option(
        None, "fine-tune this ACT checkpoint, ours or LeRobot's; model keys that are not set are taken from it"
    )

    def __post_init__(self) -> None:
        """Refuse two sources of weights."""
        super().__post_init__()
        if self.init_from and self.pretrained_backbone_weights:
            raise ValueError("model.init_from brings its own backbone; leave model.pretrained_backbone_weights out")

    @property
    def act(self) -> ActConfig:
        """What decides the network, without where its weights come from."""
        return ActConfig(**{field.name: getattr(self, field.name) for field in fields(ActConfig)})


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the images, on the device, another one for every sample; 0 everywhere is off."""

    brightness: float = option(0.0, "times 1 +- this", low=0, high=1)
    contrast: float = option(0.0, "distance from the image's mean gray, times 1 +- this", low=0, high=1)
    saturation: float = option(0.0, "distance from gray, times 1 +- this", low=0, high=1)
    hue: float = option(0.0, "turned by up to this share of the color circle", low=0, high=0.5)
    shift_px: int = option(0, "moved by up to so many pixels in both directions, the edge repeated", low=0)

    @property
    def enabled(self) -> bool:
        """Whether anything is to be changed at all."""
        return any(vars(self).values())


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how fast, and where the results go."""

    steps: int = option(5000, "optimizer steps", low=1)
    batch_size: int = option(
        4, "samples at once in each process; the global batch is this times processes times grad_accumulation", low=1
    )
    grad_accumulation: int = option(1, "batches whose gradients are summed for one optimizer step", low=1)
    scale_lr: bool = option(False, "multiply both learning rates and min_lr by the number of processes")
    lr: float = option(1e-5, "learning rate of everything but the backbone", low=0)
    lr_backbone: float = option(1e-5, "learning rate of the vision backbone", low=0)
    weight_decay: float = option(1e-4, "AdamW's decoupled weight decay", low=0)
    kl_weight: float = option(10.0, "weight of the VAE's KL divergence in the loss", low=0)
    l1_rule: Literal["valid", "all"] = option(
        "valid", "mean of |error| over valid steps, or over padding too (LeRobot <= 0.5.1)"
    )
    grad_clip_norm: float = option(10.0, "gradients are scaled down to this norm", low=0)
    scheduler: Literal["none", "cosine"] = option(
        "none", "none: constant lr; cosine: linear warm-up, then cosine to min_lr"
    )
    warmup_steps: int = option(500, "steps of linear warm-up (cosine only)", low=0)
    min_lr: float = option(1e-7, "lr at the last step (cosine only)", low=0)
    save_freq: int = option(1000, "a checkpoint every so many steps, and at the end", low=1)
    save_every_min: float = option(0.0, "and one whenever so many minutes have passed since the last; 0: no", low=0)
    keep_last: int = option(0, "how many of the newest checkpoints stay; 0: all", low=0)
    val_freq: int = option(500, "loss of the held-out episodes every so many steps, and at the end", low=1)
    log_freq: int = option(50, "metrics every so many steps", low=1)
    resume: str = option(
        "auto", "auto: go on from the newest whole checkpoint in output_dir; never; or the folder of a checkpoint"
    )
    seed: int = option(1000, "decides weights, order, noise and dropout", low=0)
    num_workers: int = option(2, "threads that gather batches ahead; 0: none", low=0)
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: cuda if there is one")
    amp: Literal["none", "bf16", "fp16"] = option(
        "none", "precision the network computes in; weights, loss and optimizer stay float32 (fp16: CUDA only)"
    )
    compile: bool = option(False, "compile the network with torch.compile; the first step takes minutes")
    deterministic: bool = option(False, "only operations that give the same bits every time on a GPU; slower")
    ddp_bucket_mb: int = option(0, "gradients are averaged in buckets of this size; 0: all in one", low=0)
    tensorboard: bool = option(False, "log to TensorBoard in output_dir/tensorboard; needs the package tensorboard")
    output_dir: str = option("/output/train-rosbag-act", "where checkpoints and metrics go")

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if not self.resume:
            raise ValueError("training.resume is empty: expected auto, never or the folder of a checkpoint")
        if self.scheduler == "cosine" and self.warmup_steps > self.steps:
            raise ValueError(
                f"training.warmup_steps={self.warmup_steps} is longer than the run, training.steps={self.steps}; "
                "lower the one or raise the other"
            )
        if self.scheduler == "cosine" and self.min_lr > self.lr:
            raise ValueError(f"training.min_lr={self.min_lr:g}: expected at most training.lr={self.lr:g}")


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases, imported only when enabled."""

    enabled: bool = option(False, "log to Weights & Biases from rank 0")
    project: str = option("ur10e-act-train", "its project")
    run_name: str | None = option(None, "name of the run; null: generated")
    tags: list[str] = option(["osmo"], "tags of the run")
    mode: Literal["online", "offline", "disabled"] = option("online", "online, offline (a local folder) or disabled")


@dataclass(frozen=True)
class TrainConfig:
    """Everything `--config` and `--override` can set."""

    data: DataConfig = section(DataConfig)
    model: ModelConfig = section(ModelConfig)
    augment: AugmentConfig = section(AugmentConfig)
    training: TrainingConfig = section(TrainingConfig)
    wandb: WandbConfig = section(WandbConfig)
