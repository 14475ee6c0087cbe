"""Network and configuration in, `checkpoint_005000/pretrained_model/` out: whole, or not there at all."""

import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import config as configuration
from common.act import Act
from common.checkpoint import Checkpoint, PolicyShape, Robot, new_network
from common.command import UserError
from common.dataset import ACTION, STATE, Dataset, Episode, picture_key
from common.files import new_folder
from common.normalise import Normaliser
from common.resnet import load_backbone_weights
from stage2_train.config import TrainConfig

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# A joint that never moved has no spread to divide by. A state is floored higher than an action: dividing a still joint's
# state by almost nothing would blow up its first small motion, while the action's floor also scales what is predicted.
STD_FLOORS = {STATE: 1e-3, ACTION: 1e-5}
MEAN_STD = {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}

log = logging.getLogger(__name__)


def new_checkpoint(config: TrainConfig, dataset: Dataset, held_out: list[Episode]) -> Checkpoint:
    """Build network, normalisation and everything else a checkpoint holds, before the first step.

    The weights are a function of training.seed. Raises UserError when the dataset lacks the statistics.
    """
    shape = PolicyShape(dataset.features[STATE].shape[0], dataset.features[ACTION].shape[0], dataset.cameras)
    torch.manual_seed(config.training.seed)
    network = new_network(config.model, shape)
    if config.model.pretrained_backbone_weights:
        load_backbone_weights(network.backbone, config.model.pretrained_backbone_weights)
    normaliser = Normaliser(statistics(dataset, config.data.image_stats), MEAN_STD, shape.sizes(), str(dataset.root))
    robot = Robot(dataset.joint_names, dataset.fps, dataset.action_meaning, dataset.action_wrapped)
    settings = {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "kl_weight": config.training.kl_weight,
        "optimizer_lr": config.training.lr,
        "optimizer_weight_decay": config.training.weight_decay,
        "optimizer_lr_backbone": config.training.lr_backbone,
    }
    return Checkpoint(network, config.model, shape, normaliser, robot, settings, _record(config, dataset, held_out))


def statistics(dataset: Dataset, image_stats: str) -> dict[str, Tensor]:
    """Return "<feature>.<stat>" tensors of the whole dataset, still joints floored, as LeRobot's processor files hold them."""
    tensors = {
        f"{key}.{name}": torch.tensor(value, dtype=torch.float32)
        for key, of in dataset.stats.items()
        for name, value in of.items()
    }
    for key, floor in STD_FLOORS.items():
        std = tensors.get(f"{key}.std")
        if std is not None and (std < floor).any():
            names = dataset.features[key].names or tuple(map(str, range(len(std))))
            still = [name for name, value in zip(names, std.tolist(), strict=True) if value < floor]
            log.warning("%s of %s hardly varies; its standard deviation is taken as %g", key, ", ".join(still), floor)
            tensors[f"{key}.std"] = std.clamp(min=floor)
    if image_stats == "imagenet":
        for camera in dataset.cameras:
            for name, value in IMAGENET.items():
                tensors[f"{picture_key(camera)}.{name}"] = torch.tensor(value).reshape(3, 1, 1)
    return tensors


def save(output_dir: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint_NNNNNN/` with a manifest of sizes and sha256 beside `pretrained_model/`; returns its path."""
    folder = output_dir / f"checkpoint_{step:06d}"
    with new_folder(folder) as temporary:
        (temporary / "pretrained_model").mkdir()
        checkpoint.write(temporary / "pretrained_model")
    log.info("saved %s", folder)
    return folder


def refuse_mixing(output_dir: Path) -> None:
    """Raise UserError when the folder already holds checkpoints: two trainings in one folder cannot be told apart."""
    existing = sorted(output_dir.glob("checkpoint_*"))
    if existing:
        raise UserError(
            f"training.output_dir={output_dir} already holds {existing[-1].name}; choose another folder or remove this one"
        )


def trainable(network: Act) -> int:
    """Return the number of parameters that are trained."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _record(config: TrainConfig, dataset: Dataset, held_out: list[Episode]) -> dict[str, Any]:
    return {
        "written_by": "bag2act; LeRobot's inference does not read this file",
        "config": configuration.to_dict(config),
        "dataset": {"fingerprint": dataset.fingerprint, "episodes": len(dataset.episodes), "frames": dataset.n_frames},
        "val_episodes": [episode.number for episode in held_out],
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": version("numpy")},
    }
