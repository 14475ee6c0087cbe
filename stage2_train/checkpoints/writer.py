"""Writes `checkpoint_005000/` and `best/` in a thread while the training continues.

The layout is LeRobot's, plus a manifest.
"""

import copy
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

from safetensors.torch import save_file
from torch import Tensor

from common.act.checkpoint import Checkpoint
from common.act.runs import PRETRAINED, list_checkpoints
from common.storage.disk import require_free
from common.storage.files import new_folder, read_json, remove_folder, write_json
from stage2_train.checkpoints.card import write_card
from stage2_train.config import TrainingConfig
from stage2_train.optimizer import Optimizer
from stage2_train.tracking.tracker import METRICS

BEST, BEST_RECORD = "best", "best.json"
STATE = "training_state"
OPTIMIZER_STATE, OPTIMIZER_GROUPS = "optimizer_state.safetensors", "optimizer_param_groups.json"
STEP = "training_step.json"

log = logging.getLogger(__name__)


class TrainingStep(NamedTuple):
    """The content of training_step.json, with LeRobot's keys."""

    step: int
    num_processes: int
    batch_size: int
    grad_accum_steps: int

    @property
    def global_batch(self) -> int:
        """Samples per step over all ranks."""
        return self.num_processes * self.batch_size * self.grad_accum_steps


def checkpoint_name(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"checkpoint_{step:06d}"


class CheckpointWriter:
    """Copies weights and optimizer state to its own memory, then writes them in a thread.

    At most one save is in flight; an error in it is raised by the next call. Only the main process has a writer.
    """

    def __init__(
        self, training: TrainingConfig, checkpoint: Checkpoint, optimizer: Optimizer, after_save: Callable[[], None]
    ) -> None:
        """`after_save` is called in the thread when a numbered checkpoint is complete."""
        self._folder, self._keep_last = Path(training.output_dir), training.keep_last
        self._optimizer, self._after_save = optimizer, after_save
        self._network = checkpoint.network
        self._copy = replace(checkpoint, network=copy.deepcopy(checkpoint.network).cpu())
        self._optimizer_copy: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1)
        self._in_flight: Future[None] | None = None
        self._best_loss = _best_loss_so_far(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()  # whatever has ended the training, a checkpoint that is being written is completed
        finally:
            self._thread.shutdown()

    def wait(self) -> None:
        """Return when nothing is being written; raises the error of the last save."""
        if self._in_flight is not None:
            in_flight, self._in_flight = self._in_flight, None
            in_flight.result()

    def save(self, done: TrainingStep, numbered: bool, val_loss: float | None) -> None:
        """Start to write `best/` if no held-out loss so far was as low, and a numbered checkpoint if asked to.

        Returns as soon as weights and optimizer state are copied.
        """
        is_best = val_loss is not None and val_loss < self._best_loss
        if not is_best and not numbered:
            return
        self.wait()
        self._take_snapshot(with_optimizer=numbered)
        if val_loss is not None and is_best:
            self._best_loss = val_loss
        groups = self._optimizer.groups()
        self._in_flight = self._thread.submit(self._write, done, numbered, val_loss if is_best else None, groups)

    def _write(
        self,
        done: TrainingStep,
        numbered: bool,
        best_loss: float | None,
        groups: list[dict[str, object]],
    ) -> None:
        if best_loss is not None:  # first: once the numbered checkpoint exists, this step is never done again
            self._write_best(done.step, best_loss)
        if numbered:
            self._write_numbered(done, groups)
            self._remove_old()
            self._after_save()

    def _take_snapshot(self, with_optimizer: bool) -> None:
        weights = self._copy.network.state_dict()
        for name, tensor in self._network.state_dict().items():
            weights[name].copy_(tensor)
        for name, tensor in self._optimizer.tensors().items() if with_optimizer else ():
            if name not in self._optimizer_copy:
                self._optimizer_copy[name] = tensor.detach().to("cpu", copy=True).contiguous()
            else:
                self._optimizer_copy[name].copy_(tensor)

    def _write_numbered(self, done: TrainingStep, groups: list[dict[str, object]]) -> None:
        folder = self._folder / checkpoint_name(done.step)
        tensors = [*self._copy.network.state_dict().values(), *self._optimizer_copy.values()]
        require_free(self._folder, sum(tensor.nbytes for tensor in tensors), f"checkpoint {folder.name}")
        with new_folder(folder) as temporary:
            self._write_policy(temporary, done.step)
            training_state = temporary / STATE
            training_state.mkdir()
            save_file(self._optimizer_copy, training_state / OPTIMIZER_STATE)
            write_json(training_state / OPTIMIZER_GROUPS, groups)
            write_json(training_state / STEP, done._asdict())
        log.info("saved %s", folder)

    def _write_best(self, step: int, val_loss: float) -> None:
        with new_folder(self._folder / BEST) as temporary:
            self._write_policy(temporary, step)
            write_json(temporary / BEST_RECORD, {"step": step, "val_loss": val_loss})
        log.info("saved %s: held-out loss %.4f at step %d", self._folder / BEST, val_loss, step)

    def _write_policy(self, folder: Path, step: int) -> None:
        (folder / PRETRAINED).mkdir()
        self._copy.write(folder / PRETRAINED)
        write_card(folder / PRETRAINED, self._copy, step, self._folder / METRICS)

    def _remove_old(self) -> None:
        for _, folder in list_checkpoints(self._folder)[: -self._keep_last] if self._keep_last else []:
            remove_folder(folder)


def _best_loss_so_far(output_dir: Path) -> float:
    path = output_dir / BEST / BEST_RECORD
    return float(read_json(path)["val_loss"]) if path.is_file() else float("inf")
