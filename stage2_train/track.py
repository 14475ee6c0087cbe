"""Metrics of a step in; metrics.jsonl, a log line, a curve and, when wanted, Weights & Biases out."""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from common.command import one_line
from common.files import replacing
from stage2_train.config import WandbConfig
from stage2_train.loss import Loss
from stage2_train.ranks import Ranks

Metrics = dict[str, float]
log = logging.getLogger(__name__)


class Window:
    """The steps since the last log. Losses add up on the device, so that no step waits for one to be read."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, device=device)
        self._steps, self._step_s, self._wait_s = 0, 0.0, 0.0

    def add(self, loss: Loss, step_s: float, wait_s: float) -> None:
        """Take in one step: its losses, how long it took and how much of that it waited for data."""
        self._sums += torch.stack([loss.total, loss.l1, loss.kl]).detach()
        self._steps, self._step_s, self._wait_s = self._steps + 1, self._step_s + step_s, self._wait_s + wait_s

    def means(self, ranks: Ranks) -> Metrics:
        """Return the means over the window, the losses' over all ranks; reading them waits for the device."""
        total, l1, kl = (ranks.mean(self._sums) / self._steps).tolist()
        step_s, wait_s = self._step_s / self._steps, self._wait_s / self._steps
        return {"loss": total, "l1_loss": l1, "kl_loss": kl, "step_s": step_s, "data_wait_s": wait_s}


class Tracker(Protocol):
    """Takes the metrics of a step."""

    def log(self, metrics: Metrics) -> None:
        """Record one step's metrics; `step` is among them."""

    def draw(self) -> None:
        """Refresh what is derived from the metrics."""


class Silent:
    """The tracker of every rank but the first."""

    def log(self, metrics: Metrics) -> None:
        """Do nothing."""

    def draw(self) -> None:
        """Do nothing."""


class Journal:
    """Appends to metrics.jsonl, which is the truth; the log line, curves.png and wandb are views of it."""

    def __init__(self, folder: Path, steps: int, run: Any | None) -> None:
        self._path = folder / "metrics.jsonl"
        self._steps = steps
        self._run = run
        self._path.write_text("")

    def log(self, metrics: Metrics) -> None:
        """Record one step's metrics."""
        with self._path.open("a") as file:
            file.write(json.dumps(metrics) + "\n")
        left_s = (self._steps - metrics["step"]) * metrics["step_s"]
        log.info(
            "step %d of %d  loss %.4f  l1 %.4f  kl %.4f  lr %.2e  %.3f s/step  about %.0f s left",
            *(metrics["step"], self._steps, metrics["loss"], metrics["l1_loss"], metrics["kl_loss"]),
            *(metrics["lr"], metrics["step_s"], left_s),
        )
        if self._run is not None:
            try:
                self._run.log(metrics, step=int(metrics["step"]))
            except Exception as error:  # whatever a tracking service does, training goes on
                log.warning("wandb failed and is left out from here on: %s", one_line(error))
                self._run = None

    def draw(self) -> None:
        """Refresh curves.png from metrics.jsonl."""
        rows = [json.loads(line) for line in self._path.read_text().splitlines()]
        if rows:
            draw_curves(rows, self._path.with_name("curves.png"))


def draw_curves(rows: list[Metrics], path: Path) -> None:
    """Draw loss and learning rate over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    steps = [row["step"] for row in rows]
    for key, label in (("loss", "loss"), ("l1_loss", "L1 part"), ("kl_loss", "KL part (unweighted)")):
        upper.plot(steps, [row[key] for row in rows], label=label)
    upper.set_yscale("log")
    upper.set_ylabel("normalised units")
    upper.grid(alpha=0.3)
    upper.legend()
    lower.plot(steps, [row["lr"] for row in rows])
    lower.set_ylabel("learning rate")
    lower.set_xlabel("step")
    lower.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


@contextlib.contextmanager
def tracker(folder: Path, steps: int, wandb: WandbConfig, config: dict[str, Any], is_first: bool) -> Iterator[Tracker]:
    """Yield the tracker of this rank; wandb is imported only when it is enabled, and may fail without hurting the run."""
    if not is_first:
        yield Silent()
        return
    folder.mkdir(parents=True, exist_ok=True)
    run = _wandb_run(folder, wandb, config) if wandb.enabled else None
    yield Journal(folder, steps, run)
    if run is not None:
        with contextlib.suppress(Exception):
            run.finish()


def _wandb_run(folder: Path, wandb: WandbConfig, config: dict[str, Any]) -> Any | None:
    try:
        import wandb as library

        return library.init(
            project=wandb.project,
            name=wandb.run_name,
            tags=wandb.tags,
            mode=wandb.mode,
            dir=str(folder),
            config=config,
        )
    except Exception as error:  # tracking is a view of the run, not a part of it
        log.warning("wandb could not start and is left out: %s", one_line(error))
        return None
