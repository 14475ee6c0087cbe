"""The training configuration: every key, its default and what it means."""

from dataclasses import dataclass
from typing import Literal

from common.act import ActConfig
from common.config import option, section


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    dataset: str = option("/data/lerobot", "folder of the LeRobot v3.0 dataset")
    fps: int = option(30, "frames per second the dataset must have", low=1)
    episodes: list[int] | None = option(None, "train on these episodes only; null: all", low=0)
    val_fraction: float = option(0.0, "share of the episodes held out, evenly spaced over the dataset", low=0, high=0.9)
    image_stats: Literal["imagenet", "dataset"] = option(
        "imagenet", "what pictures are normalised by: imagenet or dataset"
    )
    cache_dir: str | None = option(None, "where decoded pictures are kept; null: ~/.cache/bag2act")


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how fast, and where the results go."""

    steps: int = option(5000, "optimizer steps", low=1)
    batch_size: int = option(
        4, "samples per step and process; the global batch is this times the number of processes", low=1
    )
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
    log_freq: int = option(50, "metrics every so many steps", low=1)
    seed: int = option(1000, "decides weights, order, noise and dropout", low=0)
    num_workers: int = option(2, "threads that gather batches ahead; 0: none", low=0)
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: cuda if there is one")
    amp: Literal["none", "bf16"] = option(
        "none", "bf16: the network computes in bfloat16; weights, loss and optimizer stay float32"
    )
    output_dir: str = option("/output/train-rosbag-act", "where checkpoints and metrics go")

    def __post_init__(self) -> None:
        """Refuse a schedule that cannot be run."""
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
    model: ActConfig = section(ActConfig)
    training: TrainingConfig = section(TrainingConfig)
    wandb: WandbConfig = section(WandbConfig)
