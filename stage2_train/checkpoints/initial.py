"""The checkpoint that a training starts from: network, normalization statistics and the record of the training."""

import logging
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.act.checkpoint import Checkpoint, PolicyShape, new_network
from common.act.network import Act
from common.act.normalization import Normalizer
from common.act.records import Robot
from common.act.resnet import load_backbone_weights
from common.lerobot.dataset import Dataset
from common.lerobot.metadata import ACTION, ENVIRONMENT, STATE, Episode, image_key
from stage2_train.checkpoints.fine_tuning import read_base
from stage2_train.config import TrainConfig, TrainingConfig

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# Lower bounds of the standard deviations, for joints that never move. The bound of a state is higher than that of an action:
# dividing by almost nothing would blow up the joint's first small motion, while the action's bound scales the prediction, too.
MIN_STDS = {STATE: 1e-3, ENVIRONMENT: 1e-3, ACTION: 1e-5}
MIN_STD_OF_RANGE = (
    1e-2  # of a joint that moves: a rare motion becomes at most 100 standard deviations, in whatever unit
)
ROUNDING = 1e-6  # of a joint's value: a range within it is float32's rounding, and the joint never moves
MEAN_STD = {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}

log = logging.getLogger(__name__)


def initial_checkpoint(config: TrainConfig, dataset: Dataset, held_out: list[Episode]) -> Checkpoint:
    """Build everything a checkpoint holds, before the first step.

    The weights are a function of training.seed, or those of model.init_from. Raises UserError when the dataset lacks
    statistics or does not fit model.init_from.
    """
    shape = _policy_shape(dataset)
    torch.manual_seed(config.training.seed)
    network = new_network(config.model.act, shape)
    if config.model.pretrained_backbone_weights:
        load_backbone_weights(network.backbone, config.model.pretrained_backbone_weights)
    mapping, stats = {**MEAN_STD, **({"ENV": "MEAN_STD"} if shape.environment_dim else {})}, {}
    settings: dict[str, Any] = {}
    rename_map: dict[str, str] = {}
    if config.model.init_from:
        base = read_base(config, shape)
        network.load_state_dict(base.network.state_dict())
        mapping, stats = base.normalizer.mapping, base.normalizer.statistics()
        settings, rename_map = base.settings, base.rename_map
    stats = {**stats, **statistics(dataset, config.data.image_stats)}
    return Checkpoint(
        network,
        config.model.act,
        shape,
        Normalizer(stats, mapping, shape.sizes(), str(dataset.root)),
        Robot(dataset.joint_names, dataset.fps, dataset.action_meaning, dataset.action_wrapped),
        {**settings, **_training_settings(config.training)},
        _record(config, dataset, held_out),
        rename_map,
    )


def _policy_shape(dataset: Dataset) -> PolicyShape:
    state, action = (dataset.features[key].shape[0] for key in (STATE, ACTION))
    environment = dataset.features.get(ENVIRONMENT)
    return PolicyShape(state, action, dataset.cameras, environment.shape[0] if environment else 0)


def _training_settings(training: TrainingConfig) -> dict[str, Any]:
    return {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "kl_weight": training.kl_weight,
        "optimizer_lr": training.lr,
        "optimizer_weight_decay": training.weight_decay,
        "optimizer_lr_backbone": training.lr_backbone,
    }


def statistics(dataset: Dataset, image_stats: str) -> dict[str, Tensor]:
    """Return "<feature>.<statistic>" tensors of the dataset, as LeRobot's processor files hold them.

    The standard deviations of vectors near zero are raised; `image_stats` says what images are normalized by.
    """
    tensors = {
        f"{key}.{name}": torch.tensor(value, dtype=torch.float32)
        for key, stats in dataset.stats.items()
        for name, value in stats.items()
    }
    for key in MIN_STDS:
        if f"{key}.std" in tensors:
            tensors[f"{key}.std"] = _raised(dataset, key, tensors)
    if image_stats == "imagenet":
        for camera in dataset.cameras:
            for name, value in IMAGENET.items():
                tensors[f"{image_key(camera)}.{name}"] = torch.tensor(value).reshape(3, 1, 1)
    return tensors


def _raised(dataset: Dataset, key: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the standard deviations of a vector, those near zero raised to their lower bound, with a line about each."""
    std = tensors[f"{key}.std"]
    floor = torch.full_like(std, MIN_STDS[key])
    ends = [tensors.get(f"{key}.{name}") for name in ("min", "max")]
    if ends[0] is not None and ends[1] is not None and ends[0].shape == ends[1].shape == std.shape:
        range_ = ends[1] - ends[0]
        moves = range_ > ROUNDING * torch.maximum(ends[0].abs(), ends[1].abs())
        floor = torch.where(moves, range_ * MIN_STD_OF_RANGE, floor)
    names = dataset.features[key].names or tuple(map(str, range(len(std))))
    for name, value, least in zip(names, std.tolist(), floor.tolist(), strict=True):
        if value < least:
            log.warning("%s of %s hardly varies: its standard deviation %.3g is set to %.3g", key, name, value, least)
    return torch.maximum(std, floor)


def parameter_count(network: Act) -> int:
    """Return the number of trained parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _record(config: TrainConfig, dataset: Dataset, held_out: list[Episode]) -> dict[str, Any]:
    return {
        "written_by": "bag2act; LeRobot's inference does not read this file",
        "config": config.model_dump(mode="json"),
        "dataset": {
            "fingerprint": dataset.fingerprint,
            "episodes": len(dataset.episodes),
            "frames": dataset.n_frames,
        },
        "val_episodes": [episode.number for episode in held_out],
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": version("numpy")},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of this code, None outside a repository; a container image may set GIT_COMMIT."""
    if os.environ.get("GIT_COMMIT"):
        return os.environ["GIT_COMMIT"]
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
