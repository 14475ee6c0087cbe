"""Weights & Biases and TensorBoard, each fed by its own thread so that the training never waits for it."""

import logging
import queue
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from common.cli.command import one_line
from common.storage.files import write_file
from stage2_train.config import TrainConfig
from stage2_train.tracking.averages import Metrics

CLOSE_TIMEOUT_S = 60
LogAndFinish = tuple[Callable[[Metrics], object], Callable[[], object]]
log = logging.getLogger(__name__)


class BackgroundLogger:
    """A tracking service in a thread: it may be missing, slow, hang or fail, and the training continues without it.

    A service that failed once is not tried again.
    """

    def __init__(self, name: str, start: Callable[[], LogAndFinish]) -> None:
        """Call `start` in the thread; it returns what logs metrics and what finishes the service's run."""
        self._name, self._queue = name, queue.Queue[Metrics | None]()
        self._thread = threading.Thread(target=self._run, args=(start,), daemon=True)
        self._thread.start()

    def log(self, metrics: Metrics) -> None:
        """Queue one step's metrics."""
        self._queue.put(metrics)

    def close(self) -> None:
        """Wait, for at most CLOSE_TIMEOUT_S, until everything queued has arrived."""
        self._queue.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.warning("%s did not finish within %g s and is abandoned", self._name, CLOSE_TIMEOUT_S)

    def _run(self, start: Callable[[], LogAndFinish]) -> None:
        try:
            log_metrics, finish = start()
            while (metrics := self._queue.get()) is not None:
                log_metrics(metrics)
            finish()
        except Exception as error:  # whatever a service raises, the training continues
            log.warning("%s failed and is disabled for the rest of this run: %s", self._name, one_line(error))


def start_services(folder: Path, config: TrainConfig) -> list[BackgroundLogger]:
    """Start the enabled services; those that are not enabled are not imported."""
    services = []
    if config.wandb.enabled:
        services.append(BackgroundLogger("wandb", lambda: _start_wandb(folder, config)))
    if config.training.tensorboard:
        services.append(BackgroundLogger("TensorBoard", lambda: _start_tensorboard(folder)))
    return services


def _start_wandb(folder: Path, config: TrainConfig) -> LogAndFinish:
    import wandb

    id_file = folder / "wandb_run_id"  # a resumed training continues the same wandb run
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
        config=config.model_dump(mode="json"),
    )
    return lambda metrics: run.log(metrics, step=int(metrics["step"])), run.finish


def _start_tensorboard(folder: Path) -> LogAndFinish:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def log_metrics(metrics: Metrics) -> None:
        for key, value in metrics.items():
            if key != "step":
                writer.add_scalar(key, value, int(metrics["step"]))

    return log_metrics, writer.close
