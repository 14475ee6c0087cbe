"""Fine-tuning: the weights and settings of `model.init_from`, an ACT checkpoint of this project or of LeRobot."""

import functools
import logging
from pathlib import Path

from common.act.checkpoint import Checkpoint, PolicyShape, read_settings
from common.act.config import ActConfig
from common.act.runs import pretrained_folder
from common.cli.command import UserError
from common.cli.config import changed
from stage2_train.config import TrainConfig

# How chunks are executed and how the network is regularized may differ; every other key decides what the weights mean.
FREE_KEYS = {"n_action_steps", "temporal_ensemble_coeff", "dropout", "pretrained_backbone_weights"}

log = logging.getLogger(__name__)


def with_base_settings(config: TrainConfig) -> TrainConfig:
    """Return the configuration with every model key that the user has not set taken from model.init_from, if there is one."""
    if config.model.init_from is None:
        return config
    _, act, _ = read_settings(_base_folder(config.model.init_from))
    kept = {*config.model.model_fields_set, "pretrained_backbone_weights"}
    taken = {key: value for key, value in act if key not in kept}
    try:
        return changed(config, model=changed(config.model, **taken))
    except UserError as error:  # such as a chunk_size that was set and is shorter than the base's n_action_steps
        raise UserError(f"model.init_from={config.model.init_from}: {error}") from error


@functools.cache  # what was taken is said once, and a run that is still going keeps standing for the same checkpoint
def _base_folder(init_from: str) -> Path:
    return pretrained_folder(Path(init_from))


def read_base(config: TrainConfig, shape: PolicyShape) -> Checkpoint:
    """Return the checkpoint of model.init_from; raises UserError naming the first difference that its weights cannot have."""
    base = Checkpoint.read(_base_folder(str(config.model.init_from)))
    keys = [key for key in ActConfig.model_fields if key not in FREE_KEYS]
    settings = {f"model.{key}": (getattr(base.act, key), getattr(config.model, key)) for key in keys}
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
    for name, (base_value, own_value) in (settings | sizes | images).items():
        if base_value != own_value:
            raise UserError(
                f"model.init_from={config.model.init_from} has {name} {base_value}, this training {own_value}"
            )
    log.info("starting from the weights of %s", config.model.init_from)
    return base
