"""The metrics of a training: metrics.jsonl is the record; console, curves.png, wandb and TensorBoard are views of it."""

import json
import math
import time
from pathlib import Path
from typing import Self

from common.cli.command import LOG_PERIOD_S, progress
from common.storage.disk import full_disk_named
from common.storage.files import write_file
from stage2_train.config import TrainConfig
from stage2_train.tracking.averages import Metrics
from stage2_train.tracking.curves import draw_curves
from stage2_train.tracking.services import start_services

METRICS = "metrics.jsonl"
CONSOLE_METRICS = ("loss", "l1_loss", "kl_loss", "val_loss")


class Tracker:
    """Appends to metrics.jsonl and updates its views; only the main process has one.

    `steps` yields the steps to do, and shows how far they are and the newest losses.
    """

    def __init__(self, config: TrainConfig, first_step: int) -> None:
        """Continue the output folder's metrics.jsonl after `first_step` finished steps."""
        folder = Path(config.training.output_dir)
        truncate_metrics(folder / METRICS, first_step)
        self._path, self._services = folder / METRICS, start_services(folder, config)
        self._latest: Metrics = {}
        self._steps, self._drawn_s = config.training.steps, -math.inf
        steps = range(first_step, self._steps)
        self.steps = progress(steps, self._steps, "training", "step", first_step, self._newest_losses)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.steps.close()
        for service in self._services:
            service.close()

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the metrics of a step."""
        row = {"step": step, **metrics}
        with full_disk_named(self._path), self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for service in self._services:
            service.log(row)
        self._latest |= row

    def draw_curves(self) -> None:
        """Redraw curves.png from metrics.jsonl, unless that was just done and more steps follow."""
        now_s = time.monotonic()
        if now_s - self._drawn_s < LOG_PERIOD_S and self._latest.get("step") != self._steps:
            return
        self._drawn_s = now_s
        rows = [json.loads(line) for line in self._path.read_text().splitlines()]
        if rows:
            draw_curves(rows, self._path.with_name("curves.png"))

    def _newest_losses(self) -> str:
        known = [key for key in CONSOLE_METRICS if key in self._latest]
        return ", ".join(f"{key.removesuffix('_loss')} {self._latest[key]:.4f}" for key in known)


def truncate_metrics(path: Path, step: int) -> None:
    """Cut metrics.jsonl after the lines up to `step`, where a training resumes; an incomplete last line is removed, too."""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] <= step and line.endswith(b"\n"):
            kept.append(line)
    write_file(path, b"".join(kept))
