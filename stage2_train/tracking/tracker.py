"""The metrics of a training: metrics.jsonl is the record; console, curves.png, wandb and TensorBoard are views of it."""

import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Self

from tqdm import tqdm

from common.cli.command import LOG_PERIOD_S
from common.storage.files import write_file
from stage2_train.config import TrainConfig
from stage2_train.tracking.averages import Metrics
from stage2_train.tracking.curves import draw_curves
from stage2_train.tracking.services import start_services

METRICS = "metrics.jsonl"
CONSOLE_METRICS = ("loss", "l1_loss", "kl_loss", "val_loss")
log = logging.getLogger(__name__)


class Tracker:
    """Appends to metrics.jsonl and updates its views; only the main process has one."""

    def __init__(self, config: TrainConfig, first_step: int) -> None:
        """Continue the output folder's metrics.jsonl after `first_step` finished steps."""
        folder = Path(config.training.output_dir)
        truncate_metrics(folder / METRICS, first_step)
        self._path, self._services = folder / METRICS, start_services(folder, config)
        self._latest: Metrics = {}
        self._console = ConsoleProgress(first_step, config.training.steps)
        self._steps, self._drawn_s = config.training.steps, -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._console.close()
        for service in self._services:
            service.close()

    def update(self, step: int, metrics: Metrics) -> None:
        """Report that `step` steps are done, and log their metrics if there are any."""
        if metrics:
            row = {"step": step, **metrics}
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            for service in self._services:
                service.log(row)
            self._latest |= row
        losses = [
            f"{key.removesuffix('_loss')} {self._latest[key]:.4f}" for key in CONSOLE_METRICS if key in self._latest
        ]
        self._console.update(step, losses)

    def draw_curves(self) -> None:
        """Redraw curves.png from metrics.jsonl, unless that was just done and more steps follow."""
        now_s = time.monotonic()
        if now_s - self._drawn_s < LOG_PERIOD_S and self._latest.get("step") != self._steps:
            return
        self._drawn_s = now_s
        rows = [json.loads(line) for line in self._path.read_text().splitlines()]
        if rows:
            draw_curves(rows, self._path.with_name("curves.png"))


class ConsoleProgress:
    """A progress bar on a terminal; in a log, a line about every ten seconds and at the last step."""

    def __init__(self, first_step: int, steps: int) -> None:
        self._first_step, self._steps = first_step, steps
        self._started_s = self._printed_s = time.monotonic()
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=first_step, unit="step", dynamic_ncols=True) if is_terminal else None

    def update(self, step: int, losses: list[str]) -> None:
        """Show that `step` steps are done."""
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(losses), refresh=False)
            self._bar.update()
            return
        now_s = time.monotonic()
        if now_s - self._printed_s >= LOG_PERIOD_S or step == self._steps:
            self._printed_s = now_s
            step_s = (now_s - self._started_s) / (step - self._first_step)
            remaining = f"{step_s:.3f} s/step  about {(self._steps - step) * step_s:.0f} s left"
            log.info("step %d of %d  %s", step, self._steps, "  ".join([*losses, remaining]))

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


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
