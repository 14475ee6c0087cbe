"""A `pretrained_model/` folder in, network and normalization out; and back to the folder: the contract with LeRobot.

LeRobot 0.4.0 to 0.6.1 load what `write` writes, and `read` takes what they and LeRobot 0.3 write. What LeRobot's strict
config.json has no room for, the joint names, the frame rate and what an action means, stands in train_config.json, which
LeRobot's inference never reads.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from common.act.network import Act, ActConfig
from common.act.normalization import Normalizer, split_buffers
from common.act.processors import PREPROCESSOR, read_processors, read_tensors, write_processors
from common.act.runs import CONFIG, WEIGHTS
from common.cli.command import UserError, one_line
from common.cli.config import to_dict
from common.cli.validation import validate
from common.lerobot.dataset import ACTION, IMAGES, STATE, image_key
from common.storage.files import MANIFEST, find_damage, read_json, write_json

ENVIRONMENT = "observation.environment_state"
TRAIN_CONFIG = "train_config.json"
# With one of these in config.json, older LeRobot releases refuse the file; all three are their defaults when absent.
LATE_KEYS = ("use_peft", "pretrained_path", "pretrained_revision")


@dataclass(frozen=True)
class Robot:
    """What a driver must know to apply the actions; None where a checkpoint of another tool does not say."""

    joint_names: tuple[str, ...] | None = None
    fps: int | None = None
    action_meaning: str | None = None
    action_wrapped: bool | None = None


@dataclass(frozen=True)
class PolicyShape:
    """The sizes of what goes in and out: cameras maps a name to (height, width, channels)."""

    state_dim: int
    action_dim: int
    cameras: dict[str, tuple[int, int, int]]
    environment_dim: int = 0

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape that the statistics of each used feature must have."""
        vectors = {STATE: (self.state_dim,), ACTION: (self.action_dim,), ENVIRONMENT: (self.environment_dim,)}
        images = {image_key(name): (size[2], 1, 1) for name, size in self.cameras.items()}
        return {key: size for key, size in {**vectors, **images}.items() if size != (0,)}


@dataclass(frozen=True)
class Checkpoint:
    """Everything a pretrained_model folder holds. `settings` is config.json as it was read, so that no key is lost."""

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
        _require_as_written(folder)
        with torch.device("meta"):  # the weights come from the file; drawing random ones first would only take time
            network = new_network(act, shape)
        weights, buffers = split_buffers(read_tensors(folder / WEIGHTS), shape.sizes(), str(folder / WEIGHTS))
        _load_weights(network, weights, folder / WEIGHTS)
        try:
            if buffers and not (folder / f"{PREPROCESSOR}.json").exists():
                rename: dict[str, str] = {}
                normalizer = Normalizer(buffers, settings["normalization_mapping"], shape.sizes(), where=str(folder))
            else:
                normalizer, rename = read_processors(folder, settings["normalization_mapping"], shape.sizes())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder}: its normalization is damaged: {one_line(error)}") from error
        record = _read_record(folder / TRAIN_CONFIG)
        robot = _robot(record.get("robot"), folder)
        return cls(network, act, shape, normalizer, robot, settings, record, rename)

    def write(self, folder: Path) -> None:
        """Write the seven files into an existing folder."""
        settings = self._config_json()
        write_json(folder / CONFIG, settings)
        weights = {f"model.{k}": v.detach().cpu().float().contiguous() for k, v in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        features = settings["input_features"] | settings["output_features"]
        write_processors(folder, features, self.normalizer, self.rename_map)
        robot = {key: list(v) if isinstance(v, tuple) else v for key, v in vars(self.robot).items()}
        write_json(folder / TRAIN_CONFIG, {**self.train_config, "robot": robot})

    def _config_json(self) -> dict[str, Any]:
        inputs: dict[str, Any] = {STATE: {"type": "STATE", "shape": [self.shape.state_dim]}}
        for name, (height, width, channels) in self.shape.cameras.items():
            inputs[image_key(name)] = {"type": "VISUAL", "shape": [channels, height, width]}
        if self.shape.environment_dim:
            inputs[ENVIRONMENT] = {"type": "ENV", "shape": [self.shape.environment_dim]}
        written = {
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
    if not (folder / CONFIG).is_file():
        raise UserError(f"no checkpoint in {folder}: {CONFIG} is missing; give a pretrained_model folder")
    settings = read_json(folder / CONFIG)
    try:
        return settings, *_parse_settings(settings)
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / CONFIG} does not describe an ACT policy: {one_line(error)}") from error


def _require_as_written(folder: Path) -> None:
    """Hold weights and statistics against the manifest of our own trainings: a flipped bit in a weight looks like another
    weight. The texts may have been edited, and LeRobot's checkpoints have no manifest.
    """
    home = folder.absolute().parent
    if (home / MANIFEST).is_file():
        damage = find_damage(home, f"{folder.name}/", ".safetensors")
        if damage:
            raise UserError(f"{home} is damaged: {damage}; take another checkpoint")


def new_network(act: ActConfig, shape: PolicyShape) -> Act:
    """Build the network with fresh weights, drawn from torch's global generator."""
    return Act(act, shape.state_dim, shape.action_dim, len(shape.cameras), shape.environment_dim)


def _parse_settings(settings: dict[str, Any]) -> tuple[ActConfig, PolicyShape]:
    if settings["type"] != "act":
        raise ValueError(f"its type is {settings['type']!r}")
    known = {key: value for key, value in settings.items() if key in ActConfig.model_fields}
    act = validate(ActConfig, known, strict=True)
    if settings.get("replace_final_stride_with_dilation"):
        raise ValueError("replace_final_stride_with_dilation is not supported")
    sizes: dict[str, int] = {}
    cameras: dict[str, tuple[int, int, int]] = {}
    for key, feature in (settings["input_features"] | settings["output_features"]).items():
        if not all(type(size) is int and size > 0 for size in feature["shape"]):
            raise ValueError(f"{key} has shape {feature['shape']!r}")
        if feature["type"] == "VISUAL":
            channels, height, width = feature["shape"]
            cameras[key.removeprefix(IMAGES)] = (height, width, channels)
        else:
            (sizes[key],) = feature["shape"]
    return act, PolicyShape(sizes[STATE], sizes[ACTION], cameras, sizes.get(ENVIRONMENT, 0))


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


def _read_record(path: Path) -> dict[str, Any]:
    """Read train_config.json, ours or LeRobot's; what is read of it later is of the type that it should be."""
    record = read_json(path) if path.is_file() else {}
    try:
        data = record.get("config", {}).get("data", {})
        record.get("dataset", {}).get("fingerprint")
        lists = [record.get("val_episodes"), data.get("episodes"), data.get("image_size")]
        if not all(type(number) is int for numbers in lists for number in numbers or ()):
            raise TypeError("episodes and sizes are lists of whole numbers")
        json.dumps(record, allow_nan=False)  # it goes into other records
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {one_line(error)}") from error
    return dict(record)


def _robot(raw: Any, folder: Path) -> Robot:
    if raw is None:
        return Robot()
    try:
        names = tuple(raw["joint_names"]) if raw["joint_names"] else None
        if not all(isinstance(name, str) for name in names or ()):
            raise TypeError("joint_names are texts")
        return Robot(names, raw["fps"], raw["action_meaning"], raw["action_wrapped"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / TRAIN_CONFIG}: its `robot` section is damaged: {one_line(error)}") from error


# Keys and order of the config.json that LeRobot 0.4.0 to 0.6.1 all parse (they refuse unknown keys).
_CONFIG_DEFAULTS: dict[str, Any] = {
    "type": "act",
    "n_obs_steps": 1,
    "input_features": {},
    "output_features": {},
    "device": "cpu",
    "use_amp": False,
    "push_to_hub": False,
    "repo_id": None,
    "private": None,
    "tags": None,
    "license": None,
    "chunk_size": 100,
    "n_action_steps": 100,
    "normalization_mapping": {},
    "vision_backbone": "resnet18",
    "pretrained_backbone_weights": None,
    "replace_final_stride_with_dilation": False,
    "pre_norm": False,
    "dim_model": 512,
    "n_heads": 8,
    "dim_feedforward": 3200,
    "feedforward_activation": "relu",
    "n_encoder_layers": 4,
    "n_decoder_layers": 1,
    "use_vae": True,
    "latent_dim": 32,
    "n_vae_encoder_layers": 4,
    "temporal_ensemble_coeff": None,
    "dropout": 0.1,
    "kl_weight": 10.0,
    "optimizer_lr": 1e-05,
    "optimizer_weight_decay": 0.0001,
    "optimizer_lr_backbone": 1e-05,
}
