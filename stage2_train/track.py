"""Metrics of a step in; metrics.jsonl, a console line, a curve and, when wanted, wandb and TensorBoard out."""

import contextlib
import json
import logging
import math
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from common.cli.command import LOG_PERIOD_S, one_line
from common.cli.config import to_dict
from common.storage.files import atomic_path, write_file
from stage2_train.config import TrainConfig
from stage2_train.loss import Loss
from stage2_train.ranks import Ranks

Metrics = dict[str, float]
View = Callable[[Metrics], object]
METRICS = "metrics.jsonl"
SHOWN = ("loss", "l1_loss", "kl_loss", "val_loss")
CURVES = {
    "loss": "loss",
    "l1_loss": "L1 part",
    "kl_loss": "KL part (unweighted)",
    "val_loss": "L1 of held-out episodes",
    "lr": "learning rate",
}
FINISH_PATIENCE_S = 60
log = logging.getLogger(__name__)


class Window:
    """The steps since the last log. Losses add up on the device, so that no step waits for one to be read."""

    def __init__(self, device: torch.device) -> None:
        self._sums_3 = torch.zeros(3, device=device)
        self._steps, self._timed, self._step_s, self._wait_s = 0, 0, 0.0, 0.0

    def add_loss(self, loss: Loss, share: float) -> None:
        """Take in one loss, which counts for this share of a step."""
        self._sums_3 += torch.stack([loss.total, loss.l1, loss.kl]).detach() * share

    def add_step(self, step_s: float, wait_s: float) -> None:
        """Take in how long a step took and how much of that it waited for data."""
        self._steps, self._timed = self._steps + 1, self._timed + 1
        self._step_s, self._wait_s = self._step_s + step_s, self._wait_s + wait_s

    def means(self, ranks: Ranks) -> Metrics:
        """Return the means over the window, the losses' over all ranks; reading them waits for the device."""
        total, l1, kl = (ranks.sum(self._sums_3) / (self._steps * ranks.world_size)).tolist()
        step_s, wait_s = self._step_s / self._timed, self._wait_s / self._timed
        return {"loss": total, "l1_loss": l1, "kl_loss": kl, "step_s": step_s, "data_wait_s": wait_s}

    def state(self, ranks: Ranks) -> dict[str, Any]:
        """Return what a checkpoint keeps, each rank's sums apart: added up in another order they would differ."""
        return {"steps": self._steps, "sums": ranks.gather(self._sums_3).tolist()}

    def load(self, state: Mapping[str, Any] | None, ranks: Ranks) -> None:
        """Go on where the first rank's `state` was taken; another number of processes shares its sums evenly."""
        sums_R3 = torch.zeros(ranks.world_size, 3, device=ranks.device)
        if state is not None:
            stored_R3 = torch.tensor(state["sums"])
            sums_R3.copy_(stored_R3 if len(stored_R3) == ranks.world_size else stored_R3.mean(dim=0))
        ranks.share([sums_R3])
        self._sums_3 = sums_R3[ranks.rank].clone()
        self._steps = ranks.share_number(state["steps"] if state is not None else 0)


class Service:
    """A tracking service, fed by a thread of its own: it may be missing, slow, hang or die, and the training goes on.

    What happens is decided once; nothing is tried again.
    """

    def __init__(self, name: str, start: Callable[[], tuple[View, Callable[[], object]]]) -> None:
        """Call `start` in the thread; it returns what takes metrics and what ends the service."""
        self._name, self._queue = name, queue.Queue[Metrics | None]()
        self._thread = threading.Thread(target=self._serve, args=(start,), daemon=True)
        self._thread.start()

    def send(self, metrics: Metrics) -> None:
        """Hand over one step's metrics without waiting."""
        self._queue.put(metrics)

    def close(self) -> None:
        """Wait for what was sent to arrive, but not for ever."""
        self._queue.put(None)
        self._thread.join(FINISH_PATIENCE_S)
        if self._thread.is_alive():
            log.warning("%s did not end within %d s and is left behind", self._name, FINISH_PATIENCE_S)

    def _serve(self, start: Callable[[], tuple[View, Callable[[], object]]]) -> None:
        try:
            view, finish = start()
            while (metrics := self._queue.get()) is not None:
                view(metrics)
            finish()
        except Exception as error:  # tracking is a view of the run, not a part of it
            log.warning("%s failed and is left out from here on: %s", self._name, one_line(error))


class Tracker(Protocol):
    """Takes the metrics of a step."""

    def log(self, metrics: Metrics) -> None:
        """Record one step's metrics; `step` is among them."""

    def tick(self, step: int) -> None:
        """Hear that a step is done, which is shown now and then."""

    def draw(self) -> None:
        """Refresh what is derived from the metrics."""


class NullLogger:
    """The tracker of every rank but the first."""

    def log(self, metrics: Metrics) -> None:
        """Do nothing."""

    def tick(self, step: int) -> None:
        """Do nothing."""

    def draw(self) -> None:
        """Do nothing."""


class JsonlLogger:
    """Appends to metrics.jsonl, which is the truth; console, curves.png, wandb and TensorBoard are views of it."""

    def __init__(self, folder: Path, first_step: int, steps: int, services: Sequence[Service]) -> None:
        self._path, self._steps, self._services = folder / METRICS, steps, services
        self._latest: Metrics = {}
        self._started = self._told = time.monotonic()
        self._first_step, self._drawn = first_step, -math.inf
        on_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=first_step, unit="step", dynamic_ncols=True) if on_terminal else None

    def log(self, metrics: Metrics) -> None:
        """Record one step's metrics."""
        with self._path.open("a") as file:
            file.write(json.dumps(metrics) + "\n")
        self._latest |= metrics
        for service in self._services:
            service.send(metrics)

    def tick(self, step: int) -> None:
        """Show how far it is: a bar on a terminal, a line about every ten seconds and at the end in a log."""
        known = [f"{key.removesuffix('_loss')} {self._latest[key]:.4f}" for key in SHOWN if key in self._latest]
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(known), refresh=False)
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._told >= LOG_PERIOD_S or step == self._steps:
            self._told = now
            step_s = (now - self._started) / (step - self._first_step)
            left = f"{step_s:.3f} s/step  about {(self._steps - step) * step_s:.0f} s left"
            log.info("step %d of %d  %s", step, self._steps, "  ".join([*known, left]))

    def draw(self) -> None:
        """Refresh curves.png from metrics.jsonl, unless that was just done and more steps come."""
        now = time.monotonic()
        if now - self._drawn < LOG_PERIOD_S and self._latest.get("step") != self._steps:
            return
        self._drawn = now
        rows = [json.loads(line) for line in self._path.read_text().splitlines()]
        if rows:
            draw_curves(rows, self._path.with_name("curves.png"))

    def close(self) -> None:
        """End the bar and the services."""
        if self._bar is not None:
            self._bar.close()
        for service in self._services:
            service.close()


def keep_until(folder: Path, step: int) -> None:
    """Cut metrics.jsonl down to the lines up to a step, from which a training goes on; a torn last line goes too."""
    kept = []
    for line in (folder / METRICS).read_bytes().splitlines(keepends=True) if (folder / METRICS).is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] <= step and line.endswith(b"\n"):
            kept.append(line)
    write_file(folder / METRICS, b"".join(kept))


def draw_curves(rows: list[Metrics], path: Path) -> None:
    """Draw loss and learning rate over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for key, label in CURVES.items():
        of = [row for row in rows if key in row]
        if of:
            axes = lower if key == "lr" else upper
            axes.plot([row["step"] for row in of], [row[key] for row in of], label=label)
    upper.set_yscale("log")
    upper.set_ylabel("normalized units")
    upper.grid(alpha=0.3)
    upper.legend()
    lower.set_ylabel("learning rate")
    lower.set_xlabel("step")
    lower.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


@contextlib.contextmanager
def tracker(folder: Path, first_step: int, config: TrainConfig, is_first: bool) -> Iterator[Tracker]:
    """Yield the tracker of this rank; wandb and TensorBoard are imported only when enabled, and may fail without harm."""
    if not is_first:
        yield NullLogger()
        return
    keep_until(folder, first_step)
    services = []
    if config.wandb.enabled:
        services.append(Service("wandb", lambda: _wandb(folder, config)))
    if config.training.tensorboard:
        services.append(Service("TensorBoard", lambda: _tensorboard(folder)))
    journal = JsonlLogger(folder, first_step, config.training.steps, services)
    try:
        yield journal
    finally:
        journal.close()


def _wandb(folder: Path, config: TrainConfig) -> tuple[View, Callable[[], object]]:
    import wandb

    id_file = folder / "wandb_run_id"  # the same command again goes on with the same run
    if not id_file.is_file():
        write_file(id_file, uuid.uuid4().hex[:12].encode())
    run = wandb.init(
        project=config.wandb.project,
        name=config.wandb.run_name,
        tags=config.wandb.tags,
        mode=config.wandb.mode,
        dir=str(folder),
        id=id_file.read_text(),
        resume="allow",
        config=to_dict(config),
    )
    return lambda metrics: run.log(metrics, step=int(metrics["step"])), run.finish


def _tensorboard(folder: Path) -> tuple[View, Callable[[], object]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def view(metrics: Metrics) -> None:
        for key, value in metrics.items():
            if key != "step":
                writer.add_scalar(key, value, int(metrics["step"]))

    return view, writer.close
