"""Reading and writing of `pretrained_model/` folders, the format of checkpoints that is shared with LeRobot.

LeRobot 0.4.0 to 0.6.1 load what `write` writes, and `read` takes what they and LeRobot 0.3 write. LeRobot's strict
config.json has no room for the joint names, the frame rate and the meaning of an action: they are stored in
train_config.json, which LeRobot's inference never reads.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from common.act.config import ActConfig
from common.act.network import Act
from common.act.normalization import Normalizer, split_buffers
from common.act.processors import PREPROCESSOR, read_processors, read_tensors, write_processors
from common.act.records import PolicySettings, Robot, TrainingRecord
from common.act.runs import CONFIG, WEIGHTS
from common.cli.command import UserError, one_line
from common.cli.config import to_dict
from common.cli.validation import validate
from common.lerobot.metadata import ACTION, ENVIRONMENT, IMAGES, STATE, image_key
from common.storage.files import MANIFEST, find_damage, read_json, write_json

TRAIN_CONFIG = "train_config.json"
# Older LeRobot releases refuse a config.json with one of these; newer ones have defaults for all three.
LATE_KEYS = ("use_peft", "pretrained_path", "pretrained_revision")


@dataclass(frozen=True)
class PolicyShape:
    """The sizes of inputs and outputs; `cameras` maps a name to (height, width, channels)."""

    state_dim: int
    action_dim: int
    cameras: dict[str, tuple[int, int, int]]
    environment_dim: int = 0

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of the statistics of every feature that is used."""
        vectors = {STATE: (self.state_dim,), ACTION: (self.action_dim,), ENVIRONMENT: (self.environment_dim,)}
        images = {image_key(name): (size[2], 1, 1) for name, size in self.cameras.items()}
        return {key: size for key, size in {**vectors, **images}.items() if size != (0,)}


@dataclass(frozen=True)
class Checkpoint:
    """Everything a pretrained_model folder holds.

    `settings` is config.json and `train_config` train_config.json as they were read, so that no key is lost.
    """

    network: Act
    act: ActConfig
    shape: PolicyShape
    normalizer: Normalizer
    robot: Robot
    settings: dict[str, Any] = field(default_factory=dict)
    train_config: dict[str, Any] = field(default_factory=dict)
    rename_map: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Checkpoint":
        """Read a folder of ours or of LeRobot 0.3 and later.

        Raises UserError in one line when weights or normalization are missing, damaged or do not fit config.json.
        """
        settings, act, shape = read_settings(folder)
        _require_intact(folder)
        with torch.device("meta"):  # the weights come from the file, so that random ones need not be drawn
            network = new_network(act, shape)
        weights, buffers = split_buffers(read_tensors(folder / WEIGHTS), shape.sizes(), str(folder / WEIGHTS))
        _load_weights(network, weights, folder / WEIGHTS)
        mapping = PolicySettings.model_validate(settings).normalization_mapping
        if buffers and not (folder / f"{PREPROCESSOR}.json").exists():
            rename: dict[str, str] = {}
            normalizer = Normalizer(buffers, mapping, shape.sizes(), where=str(folder))
        else:
            normalizer, rename = read_processors(folder, mapping, shape.sizes())
        train_config = _read_train_config(folder / TRAIN_CONFIG)
        robot = validate(TrainingRecord, train_config).robot
        return cls(network, act, shape, normalizer, robot, settings, train_config, rename)

    @property
    def training(self) -> TrainingRecord:
        """What train_config.json says of the training."""
        return TrainingRecord.model_validate(self.train_config)

    def write(self, folder: Path) -> None:
        """Write the seven files of the format into an existing folder."""
        settings = self._config_json()
        write_json(folder / CONFIG, settings)
        weights = {f"model.{k}": v.detach().cpu().float().contiguous() for k, v in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        features = settings["input_features"] | settings["output_features"]
        write_processors(folder, features, self.normalizer, self.rename_map)
        write_json(folder / TRAIN_CONFIG, {**self.train_config, "robot": asdict(self.robot)})

    def _config_json(self) -> dict[str, Any]:
        inputs: dict[str, Any] = {STATE: {"type": "STATE", "shape": [self.shape.state_dim]}}
        for name, (height, width, channels) in self.shape.cameras.items():
            inputs[image_key(name)] = {"type": "VISUAL", "shape": [channels, height, width]}
        if self.shape.environment_dim:
            inputs[ENVIRONMENT] = {"type": "ENV", "shape": [self.shape.environment_dim]}
        written: dict[str, Any] = {
            **_CONFIG_DEFAULTS,
            **self.settings,
            **to_dict(self.act),
            "input_features": self.settings.get("input_features", inputs),
            "output_features": {ACTION: {"type": "ACTION", "shape": [self.shape.action_dim]}},
            "n_action_steps": self.act.n_action_steps or self.act.chunk_size,
            "normalization_mapping": self.normalizer.mapping,
            "pretrained_backbone_weights": None,  # anything else makes LeRobot download them before it loads ours
        }
        return {key: value for key, value in written.items() if key not in LATE_KEYS}


def read_settings(folder: Path) -> tuple[dict[str, Any], ActConfig, PolicyShape]:
    """Return config.json, and the network and the sizes it describes; raises UserError where it is not an ACT policy."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"no checkpoint in {folder}: {CONFIG} is missing; give a pretrained_model folder")
    raw = read_json(path)
    where = f"{path} does not describe an ACT policy: "
    settings = validate(PolicySettings, raw, where)
    act = validate(ActConfig, {key: raw[key] for key in ActConfig.model_fields if key in raw}, where, strict=True)
    return raw, act, _policy_shape(settings, where)


def _policy_shape(settings: PolicySettings, where: str) -> PolicyShape:
    sizes: dict[str, int] = {}
    cameras: dict[str, tuple[int, int, int]] = {}
    for key, feature in (settings.input_features | settings.output_features).items():
        if len(feature.shape) != (3 if feature.type == "VISUAL" else 1):
            raise UserError(f"{where}{key} of type {feature.type} has shape {feature.shape}")
        if feature.type == "VISUAL":
            channels, height, width = feature.shape
            cameras[key.removeprefix(IMAGES)] = (height, width, channels)
        else:
            (sizes[key],) = feature.shape
    for key in (STATE, ACTION):
        if key not in sizes:
            raise UserError(f"{where}{key} is missing")
    return PolicyShape(sizes[STATE], sizes[ACTION], cameras, sizes.get(ENVIRONMENT, 0))


def _require_intact(folder: Path) -> None:
    """Compare weights and statistics with the manifest of our own trainings: a flipped bit looks like another weight.

    The JSON files may have been edited, and LeRobot's checkpoints have no manifest.
    """
    checkpoint = folder.absolute().parent
    if (checkpoint / MANIFEST).is_file():
        damage = find_damage(checkpoint, f"{folder.name}/", ".safetensors")
        if damage:
            raise UserError(f"{checkpoint} is damaged: {damage}; take another checkpoint")


def new_network(act: ActConfig, shape: PolicyShape) -> Act:
    """Build the network with fresh weights, drawn from torch's global generator."""
    return Act(act, shape.state_dim, shape.action_dim, len(shape.cameras), shape.environment_dim)


def _load_weights(network: Act, tensors: dict[str, Tensor], path: Path) -> None:
    weights = {key.removeprefix("model."): value for key, value in tensors.items()}
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise UserError(
                f"{path} does not fit config.json: model.{key} is {found.get(key, 'missing')}, "
                f"config.json asks for {expected.get(key, 'no such tensor')}"
            )
    network.load_state_dict(weights, assign=True)


def _read_train_config(path: Path) -> dict[str, Any]:
    """Read train_config.json, ours or LeRobot's; an empty one when there is none."""
    if not path.is_file():
        return {}
    raw = read_json(path)
    validate(TrainingRecord, raw, f"{path} is damaged: ")
    try:
        json.dumps(raw, allow_nan=False)  # it becomes part of other records
    except ValueError as error:
        raise UserError(f"{path} is damaged: {one_line(error)}") from error
    return dict(raw)


# What LeRobot 0.4.0 to 0.6.1 all parse beside the settings of the network (they refuse unknown keys).
_CONFIG_DEFAULTS: dict[str, Any] = {
    "type": "act",
    "n_obs_steps": 1,
    "device": "cpu",
    "use_amp": False,
    "push_to_hub": False,
    "repo_id": None,
    "private": None,
    "tags": None,
    "license": None,
    "replace_final_stride_with_dilation": False,
    "kl_weight": 10.0,
    "optimizer_lr": 1e-05,
    "optimizer_weight_decay": 0.0001,
    "optimizer_lr_backbone": 1e-05,
}
