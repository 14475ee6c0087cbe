"""An ACT checkpoint of anybody's in, the weights and settings that a training starts from out."""

import logging
from dataclasses import fields, replace
from pathlib import Path

from common.act.checkpoint import Checkpoint, PolicyShape, read_settings
from common.act.network import ActConfig
from common.act.runs import pretrained_folder
from common.cli.command import UserError
from stage2_train.config import TrainConfig

# How the chunks are used, and how hard the training is, may differ; everything else decides what the weights mean.
FREE = {"n_action_steps", "temporal_ensemble_coeff", "dropout", "pretrained_backbone_weights"}

log = logging.getLogger(__name__)


def adopt(config: TrainConfig, keys_set: set[str]) -> TrainConfig:
    """Return the configuration with the model keys that nobody set taken from model.init_from, if there is one."""
    if config.model.init_from is None:
        return config
    _, act, _ = read_settings(pretrained_folder(Path(config.model.init_from)))
    theirs = {field.name: getattr(act, field.name) for field in fields(ActConfig)}
    taken = {key: value for key, value in theirs.items() if key not in {*keys_set, "pretrained_backbone_weights"}}
    try:
        return replace(config, model=replace(config.model, **taken))
    except ValueError as error:  # such as a chunk_size that was set and is shorter than their n_action_steps
        raise UserError(f"model.init_from={config.model.init_from}: {error}") from error


def read_base(config: TrainConfig, shape: PolicyShape) -> Checkpoint:
    """Return the checkpoint of model.init_from; raises UserError naming what the network or the dataset has otherwise."""
    base = Checkpoint.read(pretrained_folder(Path(str(config.model.init_from))))
    pairs = {
        f"model.{field.name}": (getattr(base.act, field.name), getattr(config.model, field.name))
        for field in fields(ActConfig)
        if field.name not in FREE
    }
    sizes = {
        "the size of observation.state": (base.shape.state_dim, shape.state_dim),
        "the size of action": (base.shape.action_dim, shape.action_dim),
        "the size of observation.environment_state": (base.shape.environment_dim, shape.environment_dim),
        "the cameras' names": (sorted(base.shape.cameras), sorted(shape.cameras)),
    }
    images = {
        f"the size of {camera}'s images (data.image_size)": (size, shape.cameras[camera])
        for camera, size in base.shape.cameras.items()
        if camera in shape.cameras
    }
    for what, (theirs, ours) in (pairs | sizes | images).items():
        if theirs != ours:
            raise UserError(f"model.init_from={config.model.init_from} has {what} {theirs}, this training {ours}")
    log.info("starting from the weights of %s", config.model.init_from)
    return base
