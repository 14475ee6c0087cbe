"""An ACT checkpoint of anybody's in, the weights and settings that a training starts from out."""

import logging
from pathlib import Path

from common.act.checkpoint import Checkpoint, PolicyShape, read_settings
from common.act.network import ActConfig
from common.act.runs import pretrained_folder
from common.cli.command import UserError
from common.cli.config import changed
from stage2_train.config import TrainConfig

# How the chunks are used, and how hard the training is, may differ; everything else decides what the weights mean.
FREE = {"n_action_steps", "temporal_ensemble_coeff", "dropout", "pretrained_backbone_weights"}

log = logging.getLogger(__name__)


def adopt(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the model keys that nobody set taken from model.init_from, if there is one."""
    if config.model.init_from is None:
        return config
    _, act, _ = read_settings(pretrained_folder(Path(config.model.init_from)))
    kept = {*config.model.model_fields_set, "pretrained_backbone_weights"}
    taken = {key: value for key, value in act if key not in kept}
    try:
        return changed(config, model=changed(config.model, **taken))
    except UserError as error:  # such as a chunk_size that was set and is shorter than their n_action_steps
        raise UserError(f"model.init_from={config.model.init_from}: {error}") from error


def read_base(config: TrainConfig, shape: PolicyShape) -> Checkpoint:
    """Return the checkpoint of model.init_from; raises UserError naming what the network or the dataset has otherwise."""
    base = Checkpoint.read(pretrained_folder(Path(str(config.model.init_from))))
    pairs = {
        f"model.{name}": (getattr(base.act, name), getattr(config.model, name))
        for name in ActConfig.model_fields
        if name not in FREE
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
