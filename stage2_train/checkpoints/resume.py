"""An output folder and a configuration in; the checkpoint to go on from out, or one line about why that cannot be.

Running the same command again goes on from the newest checkpoint that is whole. A setting that would have changed the steps
that are done already is refused; one that changes nothing about them, such as save_freq, may differ.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.act.checkpoint import TRAIN_CONFIG
from common.act.network import Act
from common.act.runs import WEIGHTS
from common.cli.command import UserError, one_line
from common.storage.files import find_damage, read_json
from stage2_train.checkpoints.saving import MODEL, OPTIMIZER_STATE, STATE, STEP, WINDOW, numbered
from stage2_train.config import TrainConfig
from stage2_train.optimizer import Optimizer

# What does not change a step: where things lie, how often they are written, who computes; the global batch is compared as
# such, and a copy of the dataset by its content.
FREE = {
    *("data.dataset", "data.frame_cache", "data.cache_dir", "model.n_action_steps", "model.temporal_ensemble_coeff"),
    *("training.batch_size", "training.grad_accumulation", "training.ddp_bucket_mb", "training.num_workers"),
    *("training.save_freq", "training.save_every_min", "training.keep_last", "training.val_freq", "training.log_freq"),
    *("training.device", "training.compile", "training.deterministic", "training.output_dir", "training.resume"),
    *("training.tensorboard", "wandb.enabled", "wandb.project", "wandb.run_name", "wandb.tags", "wandb.mode"),
}
OF_THE_SCHEDULE = {"training.steps", "training.warmup_steps", "training.min_lr"}

log = logging.getLogger(__name__)


class ResumePoint(NamedTuple):
    """A checkpoint to go on from."""

    folder: Path
    step: int

    def window(self) -> dict[str, Any]:
        """Return what had been summed up for the next line of metrics.jsonl."""
        window: dict[str, Any] = read_json(self.folder / STATE / WINDOW)
        return window

    def load(self, network: Act, optimizer: Optimizer) -> None:
        """Take over weights and optimizer state; raises UserError where they are another network's."""
        try:
            _copy(network.state_dict(), load_file(self.folder / MODEL / WEIGHTS))
            optimizer.load(load_file(self.folder / STATE / OPTIMIZER_STATE))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise UserError(f"{self.folder} does not fit this training: {one_line(error)}") from error


def find_start(config: TrainConfig, identity: str, world_size: int) -> ResumePoint | None:
    """Return where to go on, None to begin; raises UserError when the configuration does not allow it.

    `identity` is the dataset's. A damaged checkpoint is passed over with a warning.
    """
    output_dir, way = Path(config.training.output_dir), config.training.resume
    there = numbered(output_dir)
    if way == "never":
        if there:
            raise UserError(
                f"training.output_dir={output_dir} already holds {there[-1][1].name} and training.resume=never; "
                "choose another folder or remove this one"
            )
        return None
    if way == "auto":
        start = _newest_whole(output_dir, [folder for _, folder in reversed(there)])
    else:
        start = _open(Path(way))
        if start is None:
            raise UserError(f"training.resume={way} cannot be gone on from")
    if start is not None:
        refuse_changes(start, config, identity, world_size)
    return start


def refuse_changes(start: ResumePoint, config: TrainConfig, identity: str, world_size: int) -> None:
    """Raise UserError naming every setting, with its old and new value, that would have changed the steps done."""
    from common.cli.config import to_dict

    record = read_json(start.folder / MODEL / TRAIN_CONFIG)
    done = read_json(start.folder / STATE / STEP)
    old, new = _flat(record["config"]), _flat(to_dict(config))
    free = FREE if config.training.scheduler == "cosine" else FREE | OF_THE_SCHEDULE
    changes = [
        f"{key} {old[key]!r} -> {value!r}"
        for key, value in new.items()
        if key not in free and old.get(key, value) != value
    ]
    processes = done["num_processes"]
    global_batch = done["batch_size"] * processes * done["grad_accum_steps"]
    training = config.training
    asked = training.batch_size * world_size * training.grad_accumulation
    if asked != global_batch:
        changes.append(f"the global batch {global_batch} -> {asked} (batch_size x processes x grad_accumulation)")
    if training.scale_lr and processes != world_size:
        changes.append(f"the number of processes {processes} -> {world_size} (training.scale_lr)")
    if record["dataset"]["identity"] != identity:
        changes.append(f"the content of {config.data.dataset}")
    if changes:
        raise UserError(
            f"{start.folder} cannot go on with another {'; '.join(changes)}: set it back, choose another "
            f"training.output_dir, or start from these weights with model.init_from={start.folder}"
        )


def _newest_whole(output_dir: Path, newest_first: list[Path]) -> ResumePoint | None:
    for folder in newest_first:
        start = _open(folder)
        if start is not None:
            return start
    if newest_first:
        raise UserError(
            f"none of the {len(newest_first)} checkpoints in training.output_dir={output_dir} can be gone on from; "
            "choose another folder or remove this one"
        )
    return None


def _open(folder: Path) -> ResumePoint | None:
    damage = find_damage(folder) or (None if (folder / STATE / STEP).is_file() else f"it has no {STATE}/{STEP}")
    if damage:
        log.warning("%s is not whole and is passed over: %s", folder, damage)
        return None
    return ResumePoint(folder, int(read_json(folder / STATE / STEP)["step"]))


def _copy(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in own.items():
            value = stored[f"model.{name}"]
            if value.shape != tensor.shape:
                raise ValueError(f"model.{name} is {tuple(value.shape)}, expected {tuple(tensor.shape)}")
            tensor.copy_(value)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
