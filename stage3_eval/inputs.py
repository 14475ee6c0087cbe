"""Open the policy and the dataset, check that they fit each other, and choose the episodes to evaluate."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common.act.runs import WEIGHTS, pretrained_folder
from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.lerobot.metadata import ACTION, ENVIRONMENT, STATE, Episode, image_key
from common.policy import Policy
from common.storage.files import describe_folder
from stage3_eval.metrics.summary import seen_in_training

DEFAULT_EPISODES = ["0-3"]
MEANINGS = ("delta", "next_position", "command")
log = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """A policy and a dataset that fit each other, what the actions of both mean, and the episodes to evaluate."""

    policy: Policy
    folder: Path  # pretrained_model
    files: dict[str, str]  # name -> sha256 of the files in it
    dataset: Dataset
    episodes: list[Episode]
    action_meaning: str | None  # None: neither of them says, nor does the flag

    @property
    def checkpoint_sha256(self) -> str:
        """Hex sha256 of the weights."""
        return self.files[WEIGHTS]

    @property
    def held_out(self) -> bool | None:
        """Whether training saw none of the episodes; None when it used other data or did not record them."""
        seen = _seen_in_training(self.episodes, self.policy, self.dataset)
        return None if seen is None else not seen


def open_inputs(
    checkpoint: Path,
    dataset: Path,
    episodes: Sequence[str] | None,
    device: str | None,
    action_meaning: str | None = None,
    rename: Mapping[str, str] | None = None,
) -> Inputs:
    """Open both and check that they fit each other; raises UserError naming both sides where they differ.

    Names, cameras and image size are those of the training; `rename` replaces its names.
    """
    folder = pretrained_folder(checkpoint)
    policy = Policy.load(folder, choose_device(device))
    data = policy.checkpoint.training.config.data
    rename = data.rename if rename is None else rename
    opened = Dataset.open(dataset, rename, data.use_cameras).in_size(data.image_size)
    require_match(policy, opened)
    meaning = choose_meaning(action_meaning, policy, opened)
    files = {name: entry.sha256 for name, entry in describe_folder(folder).items()}
    return Inputs(policy, folder, files, opened, choose_episodes(episodes, policy, opened), meaning)


def choose_meaning(flag: str | None, policy: Policy, dataset: Dataset) -> str | None:
    """Return what an action means, as the dataset, the checkpoint or the flag says; None when none does."""
    recorded = dataset.action_meaning or policy.action_meaning
    if flag and recorded and flag != recorded:
        source = "dataset" if dataset.action_meaning else "checkpoint"
        raise UserError(f"--action-meaning {flag}: the {source} says {recorded}; leave the flag out")
    if not dataset.action_meaning and recorded:
        log.info("the dataset does not say what an action means; the checkpoint does: %s", recorded)
    return recorded or flag


def choose_device(flag: str | None) -> str:
    """Return `flag`, else $EVAL_DEVICE, else cuda where it is available, else cpu."""
    device = flag or os.environ.get("EVAL_DEVICE")
    if device and device not in ("cpu", "cuda"):
        raise UserError(f"EVAL_DEVICE={device}: expected cpu or cuda")
    if not device and not torch.cuda.is_available():
        log.info("no CUDA device found: evaluating on the CPU")
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def choose_episodes(flag: Sequence[str] | None, policy: Policy, dataset: Dataset) -> list[Episode]:
    """Return the episodes of the flag, each once, in its order; without a flag those of $EVAL_EPISODES or 0-3.

    The flag takes numbers, ranges such as 0-3, `all`, and `val`, the episodes that the training held out. All of them must
    exist (else UserError); defaults that do not exist are left out.
    """
    n_episodes = len(dataset.episodes)
    from_flag, from_environment = " ".join(flag or ()).split(), os.environ.get("EVAL_EPISODES", "").split()
    words = from_flag or from_environment or DEFAULT_EPISODES
    numbers = list(dict.fromkeys(number for word in words for number in _parse_episodes(word, policy, n_episodes)))
    missing = [number for number in numbers if number >= n_episodes]
    if missing and (from_flag or len(missing) == len(numbers)):
        raise UserError(f"episode {missing[0]} does not exist: {dataset.root} has episodes 0 to {n_episodes - 1}")
    if missing and from_environment:
        log.warning("%s has only %d episodes: leaving out %s", dataset.root, n_episodes, ", ".join(map(str, missing)))
    chosen = [dataset.episodes[number] for number in numbers if number < n_episodes]
    seen = _seen_in_training(chosen, policy, dataset)
    if seen:
        log.warning("the policy was trained on this dataset; not held out: %s", ", ".join(map(str, seen)))
    return chosen


def require_match(policy: Policy, dataset: Dataset) -> None:
    """Raise UserError, naming both sides, when the policy was trained on other features than the dataset has."""
    robot, shape, features = policy.checkpoint.robot, policy.checkpoint.shape, dataset.features
    _require_equal(f"{STATE} has shape", (shape.state_dim,), features[STATE].shape)
    _require_equal(f"{ACTION} has shape", (shape.action_dim,), features[ACTION].shape)
    if robot.joint_names and features[ACTION].names:
        _require_equal("the joints are", ", ".join(robot.joint_names), ", ".join(dataset.joint_names))
    if robot.action_meaning and dataset.action_meaning:
        _require_equal("an action means", robot.action_meaning, dataset.action_meaning)
    if shape.environment_dim:
        environment = features[ENVIRONMENT].shape if ENVIRONMENT in features else None
        _require_equal(f"{ENVIRONMENT} has shape", (shape.environment_dim,), environment)
    _require_cameras(policy, dataset)
    if policy.fps and policy.fps != dataset.fps:
        log.warning("the checkpoint was trained at %d fps, the dataset has %d", policy.fps, dataset.fps)
    mean = dataset.stats.get(ACTION, {}).get("mean", np.empty(0))
    if mean.shape != (shape.action_dim,) or not np.isfinite(mean).all():
        raise UserError(f"{dataset.root}/meta/stats.json has no mean of {shape.action_dim} actions: {mean.tolist()}")


def _require_cameras(policy: Policy, dataset: Dataset) -> None:
    renamed = policy.checkpoint.rename_map
    found = {renamed.get(image_key(name), image_key(name)): size for name, size in dataset.cameras.items()}
    expected = {image_key(name): size for name, size in policy.cameras.items()}
    if expected.keys() - found.keys():
        _require_equal("the cameras are", ", ".join(expected) or "none", ", ".join(found) or "none")
    for key, size in expected.items():
        _require_equal(f"{key} has height, width, channels", size, found[key])
    if found.keys() - expected.keys():
        log.warning("the checkpoint does not use %s", ", ".join(sorted(found.keys() - expected.keys())))


def _parse_episodes(word: str, policy: Policy, n_episodes: int) -> Sequence[int]:
    if word == "all":
        return range(n_episodes)
    if word == "val":
        held_out = policy.checkpoint.training.val_episodes
        if not held_out:
            raise UserError(
                "episodes val: the training held out none, or its train_config.json does not say which; give numbers"
            )
        return held_out
    match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", word)
    if not match or int(match[2] or match[1]) < int(match[1]):
        raise UserError(f"episodes {word!r}: expected numbers, a range such as 0-3, all or val")
    first, last = int(match[1]), int(match[2] or match[1])
    return range(first, min(last, max(n_episodes, first)) + 1)


def _require_equal(what: str, in_checkpoint: object, in_dataset: object) -> None:
    if in_checkpoint != in_dataset:
        raise UserError(
            f"checkpoint and dataset do not fit: {what} {in_checkpoint} in the checkpoint, {in_dataset} in the dataset; "
            "evaluate on a dataset with the features of the training data"
        )


def _seen_in_training(chosen: Sequence[Episode], policy: Policy, dataset: Dataset) -> list[int] | None:
    training = policy.checkpoint.training
    if training.dataset.fingerprint != dataset.fingerprint:
        return None
    numbers = [episode.number for episode in chosen]
    return seen_in_training(numbers, training.val_episodes, training.config.data.episodes)
