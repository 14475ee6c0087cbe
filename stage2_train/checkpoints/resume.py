"""Chooses the checkpoint to resume from: the newest complete one of the output folder.

A setting that would have changed the steps already done is refused; one that changes none of them, such as save_freq, may
differ.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file

from common.act.checkpoint import TRAIN_CONFIG
from common.act.network import Act
from common.act.runs import PRETRAINED, WEIGHTS, list_checkpoints
from common.cli.command import UserError, one_line
from common.storage.files import find_damage, read_json
from stage2_train.checkpoints.writer import OPTIMIZER_STATE, STATE, STEP, TrainingStep
from stage2_train.config import TrainConfig
from stage2_train.optimizer import Optimizer

# Settings that change no step: paths, how often files are written, the device. The global batch is compared as a whole,
# and the dataset by its `fingerprint`.
FREE_KEYS = {
    *("data.dataset", "data.fps", "data.frame_cache", "data.cache_dir"),
    *("model.n_action_steps", "model.temporal_ensemble_coeff"),
    *("training.batch_size", "training.grad_accumulation", "training.ddp_bucket_mb", "training.num_workers"),
    *("training.save_freq", "training.save_every_min", "training.keep_last", "training.val_freq", "training.log_freq"),
    *("training.device", "training.compile", "training.deterministic", "training.output_dir", "training.resume"),
    *("training.tensorboard", "wandb.enabled", "wandb.project", "wandb.run_name", "wandb.tags", "wandb.mode"),
}
SCHEDULE_KEYS = {"training.steps", "training.warmup_steps", "training.min_lr"}  # free where the rate is constant

log = logging.getLogger(__name__)


class ResumePoint(NamedTuple):
    """A complete checkpoint to resume from."""

    folder: Path
    progress: TrainingStep

    def load(self, network: Act, optimizer: Optimizer) -> None:
        """Load weights and optimizer state; raises UserError if they belong to another network."""
        try:
            weights = load_file(self.folder / PRETRAINED / WEIGHTS)
            network.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
            optimizer.load(load_file(self.folder / STATE / OPTIMIZER_STATE))
        except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
            raise UserError(f"{self.folder} does not fit this training: {one_line(error)}") from error


def find_resume_point(config: TrainConfig, fingerprint: str, world_size: int) -> ResumePoint | None:
    """Return where to resume, None to start from the beginning.

    A damaged checkpoint is skipped with a warning. Raises UserError when the configuration does not allow to resume.
    """
    output_dir, mode = Path(config.training.output_dir), config.training.resume
    newest_first = [folder for _, folder in reversed(list_checkpoints(output_dir))]
    if mode == "never":
        if newest_first:
            raise UserError(
                f"training.output_dir={output_dir} already holds {newest_first[0].name} and training.resume=never; "
                "choose another folder or remove this one"
            )
        return None
    candidates = newest_first if mode == "auto" else _candidates(Path(mode))
    if not all(folder.resolve().is_relative_to(output_dir.resolve()) for folder in candidates):
        # The same command again: what the branch itself has saved comes first.
        candidates = [*newest_first, *candidates]
    point = next((point for point in map(_open, candidates) if point is not None), None)
    if point is not None:
        refuse_changes(point, config, fingerprint, world_size)
    elif mode != "auto":
        raise UserError(f"training.resume={mode} is not a complete checkpoint; choose another one")
    elif candidates:
        raise UserError(
            f"none of the {len(candidates)} checkpoints in training.output_dir={output_dir} is complete; "
            "choose another folder or remove this one"
        )
    return point


def _candidates(path: Path) -> list[Path]:
    """Return the checkpoints that a folder stands for, newest first: those of a run, or the one it is or belongs to."""
    if path.name == PRETRAINED:
        return [path.resolve().parent]
    return [folder for _, folder in reversed(list_checkpoints(path))] or [path]


def refuse_changes(point: ResumePoint, config: TrainConfig, fingerprint: str, world_size: int) -> None:
    """Raise UserError naming, with old and new value, every setting that would have changed the steps already done."""
    training, done = config.training, point.progress
    record = read_json(point.folder / PRETRAINED / TRAIN_CONFIG)
    old, new = _flatten(record["config"]), _flatten(config.model_dump(mode="json"))
    free_keys = FREE_KEYS if training.scheduler == "cosine" else FREE_KEYS | SCHEDULE_KEYS
    changes = [
        f"{key} {old[key]!r} -> {value!r}"
        for key, value in new.items()
        if key not in free_keys and old.get(key, value) != value
    ]
    global_batch = training.batch_size * world_size * training.grad_accumulation
    if global_batch != done.global_batch:
        changes.append(
            f"the global batch {done.global_batch} -> {global_batch} (batch_size x processes x grad_accumulation)"
        )
    if training.scale_lr and done.num_processes != world_size:
        changes.append(f"the number of processes {done.num_processes} -> {world_size} (training.scale_lr)")
    if record["dataset"]["fingerprint"] != fingerprint:
        changes.append(f"the content of {config.data.dataset}")
    if changes:
        raise UserError(
            f"{point.folder} cannot be resumed with changes that affect the steps already done: {'; '.join(changes)}; set "
            f"them back, or choose another training.output_dir, where model.init_from={point.folder} starts from these weights"
        )


def _open(folder: Path) -> ResumePoint | None:
    damage = find_damage(folder) or (None if (folder / STATE / STEP).is_file() else f"it has no {STATE}/{STEP}")
    if damage:
        log.warning("%s is incomplete or damaged and is skipped: %s", folder, damage)
        return None
    return ResumePoint(folder, TrainingStep(**read_json(folder / STATE / STEP)))


def _flatten(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, values in tree.items() for key, value in values.items()}
