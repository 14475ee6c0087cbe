"""The state of the training in, `checkpoint_005000/` and `best/` out, written by a thread while the training goes on."""

import copy
import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from safetensors.torch import save_file
from torch import Tensor

from common.act.checkpoint import Checkpoint
from common.storage.files import new_folder, read_json, remove_folder, require_free, write_json
from stage2_train.optimizer import Optimizer

MODEL, STATE, BEST, BEST_RECORD = "pretrained_model", "training_state", "best", "best.json"
OPTIMIZER_STATE, OPTIMIZER_GROUPS, STEP = (
    "optimizer_state.safetensors",
    "optimizer_param_groups.json",
    "training_step.json",
)
WINDOW = "log_window.json"  # ours: the losses since the last line of metrics.jsonl, so that the next one is whole

log = logging.getLogger(__name__)


def checkpoint_name(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"checkpoint_{step:06d}"


def numbered(output_dir: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of every numbered checkpoint, in the order of their steps."""
    matches = ((re.fullmatch(r"checkpoint_(\d{6,})", path.name), path) for path in output_dir.glob("checkpoint_*"))
    return sorted((int(match[1]), path) for match, path in matches if match)


class Numbered(NamedTuple):
    """What a numbered checkpoint holds beside weights and optimizer, and what else its writing is the moment for."""

    shares: Mapping[str, int]  # how the global batch was shared
    window: Mapping[str, Any]  # the losses since the last log line
    check: Callable[[], None]  # before it is written
    draw: Callable[[], None]  # after


class Saver:
    """Copies weights and optimizer state to memory of its own, then writes them behind the training's back.

    One save is in flight at most; what goes wrong in it is raised by the next call. Only the first rank has one.
    """

    def __init__(self, output_dir: Path, checkpoint: Checkpoint, optimizer: Optimizer, keep_last: int) -> None:
        self._folder, self._keep_last, self._optimizer = output_dir, keep_last, optimizer
        self._live = checkpoint.network
        self._copy = replace(checkpoint, network=copy.deepcopy(checkpoint.network).cpu())
        self._state: dict[str, Tensor] = {}
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self.best = _best_so_far(output_dir)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.wait()  # a checkpoint that is being written is finished, whatever has ended the training
        finally:
            self._writer.shutdown()

    def wait(self) -> None:
        """Return when nothing is being written any more; raises what went wrong."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def save(self, step: int, numbered: Numbered | None, val_loss: float | None) -> None:
        """ResumePoint writing what is due: `best/`, when no held-out loss before was as low, and the numbered checkpoint.

        Returns as soon as the state is copied.
        """
        improved = val_loss if val_loss is not None and val_loss < self.best else None
        if improved is None and numbered is None:
            return
        self.wait()
        self._snapshot(with_optimizer=numbered is not None)
        self.best = self.best if improved is None else improved
        groups = self._optimizer.groups()
        self._writing = self._writer.submit(self._write, step, improved, numbered, groups)

    def _write(
        self, step: int, val_loss: float | None, numbered: Numbered | None, groups: list[dict[str, object]]
    ) -> None:
        if numbered is not None:
            numbered.check()
        if val_loss is not None:  # first: once the numbered one is there, nobody comes back to this step
            self._write_best(step, val_loss)
        if numbered is not None:
            self._write_numbered(step, numbered, groups)
            self._prune()
            numbered.draw()

    def _snapshot(self, with_optimizer: bool) -> None:
        mine = self._copy.network.state_dict()
        for name, tensor in self._live.state_dict().items():
            mine[name].copy_(tensor)
        for name, tensor in self._optimizer.tensors().items() if with_optimizer else ():
            if name not in self._state:
                self._state[name] = tensor.detach().to("cpu", copy=True).contiguous()
            else:
                self._state[name].copy_(tensor)

    def _write_numbered(self, step: int, numbered: Numbered, groups: list[dict[str, object]]) -> None:
        folder = self._folder / checkpoint_name(step)
        size = sum(t.nbytes for t in [*self._copy.network.state_dict().values(), *self._state.values()])
        require_free(self._folder, size, f"checkpoint {folder.name}")
        with new_folder(folder) as temporary:
            (temporary / MODEL).mkdir()
            self._copy.write(temporary / MODEL)
            state = temporary / STATE
            state.mkdir()
            save_file(self._state, state / OPTIMIZER_STATE)
            write_json(state / OPTIMIZER_GROUPS, groups)
            write_json(state / STEP, {"step": step, **numbered.shares})
            write_json(state / WINDOW, numbered.window)
        log.info("saved %s", folder)

    def _write_best(self, step: int, val_loss: float) -> None:
        with new_folder(self._folder / BEST) as temporary:
            (temporary / MODEL).mkdir()
            self._copy.write(temporary / MODEL)
            write_json(temporary / BEST_RECORD, {"step": step, "val_loss": val_loss})
        log.info("saved %s: held-out loss %.4f at step %d", self._folder / BEST, val_loss, step)

    def _prune(self) -> None:
        if not self._keep_last:
            return
        for _, old in numbered(self._folder)[: -self._keep_last]:
            remove_folder(old)


def _best_so_far(output_dir: Path) -> float:
    path = output_dir / BEST / BEST_RECORD
    return float(read_json(path)["val_loss"]) if path.is_file() else float("inf")
