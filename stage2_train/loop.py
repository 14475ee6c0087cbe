"""The training loop: a step, and now and then a log line, a validation and a checkpoint."""

import contextlib
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple, Self

import torch

from common.act.checkpoint import Checkpoint
from common.cli.command import EXIT_INTERRUPTED, TransientError
from common.lerobot.dataset import Dataset
from common.lerobot.metadata import Episode
from common.report.formatting import counted
from stage2_train.batches import BatchOrder, ChunkDataset, FrameStore, load_batches
from stage2_train.checkpoints.initial import parameter_count
from stage2_train.checkpoints.resume import ResumePoint
from stage2_train.checkpoints.writer import CheckpointWriter, TrainingStep
from stage2_train.config import TrainConfig
from stage2_train.distributed import AsyncFlags, World
from stage2_train.loss import LossModule
from stage2_train.optimizer import Optimizer
from stage2_train.step import FiniteCheck, Stepper, StepResult
from stage2_train.tracking.averages import Averages, Metrics
from stage2_train.tracking.tracker import Tracker
from stage2_train.validate import Validation

SAVING = b"\nstopping after this step, with a checkpoint; Ctrl-C again stops at once\n"
log = logging.getLogger(__name__)


class Due(NamedTuple):
    """Which actions are due after a step."""

    log: bool
    validate: bool
    save: bool


class StopSignals:
    """Handles SIGTERM and Ctrl-C in a `with` block: both stop at once until a loop defers them, then only set `received`.

    A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferred = False

    def __enter__(self) -> Self:
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):  # in the background of a shell
            numbers.remove(signal.SIGINT)
        self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        self.received = self.received or number  # torchrun answers Ctrl-C with SIGTERM to its processes
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            if not self.deferred:
                raise KeyboardInterrupt
            os.write(2, SAVING)  # a log may be in the middle of a line
        elif not self.deferred:
            raise TransientError("stopped by SIGTERM before the first step")


class Trainer:
    """One training, from its first step or from a checkpoint to its last step."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        store: FrameStore,
        episodes: list[Episode],
        held_out: list[Episode],
        checkpoint: Checkpoint,
        world: World,
    ) -> None:
        training, model = config.training, config.model
        self.config, self.world, self.checkpoint = config, world, checkpoint
        self.order = BatchOrder(
            seed=training.seed,
            batch_size=training.batch_size,
            rank=world.rank,
            world_size=world.size,
            latent_dim=model.latent_dim,
            grad_accumulation=training.grad_accumulation,
            augment=config.augment.enabled,
        )
        self.dataset = ChunkDataset(store, episodes, model.chunk_size)
        self.validation = Validation(store, held_out, config) if held_out else None
        self.network = checkpoint.network.to(world.device).train()
        self.optimizer = Optimizer(self.network, training, world.size)
        self.finite_check = FiniteCheck(world, self.optimizer.scaler, training.lr)
        self.cameras, self.averages, self.first_step = list(dataset.cameras), Averages(world.device), 0
        log.info(
            "%s (%d held out), %d frames, %.1f M parameters; batch %d x %s x %d = %d; on %s",
            *(counted(len(episodes), "episode"), len(held_out), len(self.dataset), parameter_count(self.network) / 1e6),
            *(training.batch_size, counted(world.size, "process"), training.grad_accumulation),
            *(self.order.global_batch, world.device),
        )

    def start_from(self, resume_point: ResumePoint | None, first_step: int) -> None:
        """Load the checkpoint that the main process has opened, if any, and share it with all ranks."""
        self.first_step = first_step
        if resume_point is not None:
            resume_point.load(self.network, self.optimizer)
            log.info("resuming from %s", resume_point.folder)
        if first_step:
            state = self.optimizer.tensors()
            self.world.broadcast(list(state.values()))
            self.optimizer.load(state)
        training, world = self.config.training, self.world
        if training.compile:
            self.network.compile(dynamic=False)  # every batch has the same shape
        # DDP broadcasts the weights.
        model = world.wrap(self.network, training.ddp_bucket_mb, static_graph=training.grad_accumulation == 1)
        normalizer = self.checkpoint.normalizer.to(world.device)
        self.loss_module = LossModule(self.network, model, normalizer, self.cameras, self.config)
        self.stepper = Stepper(self.order, world, self.loss_module, self.optimizer, self.finite_check, self.averages)

    def run(self, signals: StopSignals) -> None:
        """Train to the last step; after a signal to any rank, save and raise TransientError, or KeyboardInterrupt for Ctrl-C.

        The other ranks raise SystemExit.
        """
        training, world, flags = self.config.training, self.world, AsyncFlags(self.world)
        batches = load_batches(
            self.dataset, self.order, self.first_step, training.steps, training.num_workers, world.device
        )
        self.saved_s, signals.deferred, due = time.monotonic(), True, Due(log=False, validate=False, save=False)
        with self._outputs() as outputs, _garbage_collection_paused():
            for step in outputs[0].steps if outputs else range(self.first_step, training.steps):
                result = self.stepper.step(batches, step)
                done = step + 1
                stop, expired = flags.any(signals.received is not None, self._save_timer_expired())
                # With several processes the answer is of the step before, whose save may have come in between.
                answered = due.save and world.size > 1
                due = self._due(done, save_now=stop or (expired and not answered))
                if any(due):
                    self.finite_check.require()
                metrics = self._metrics(done, result) if due.log else {}
                if self.validation is not None and due.validate:
                    metrics["val_loss"] = self.validation.loss(self.loss_module, world)
                if due.save:
                    self.saved_s = time.monotonic()
                if outputs:
                    tracker, writer = outputs
                    if metrics:
                        tracker.log(done, metrics)
                    progress = TrainingStep(done, world.size, training.batch_size, training.grad_accumulation)
                    writer.save(progress, due.save, metrics.get("val_loss"))
                if stop:
                    self._stop(writer if outputs else None, done, signals.received)

    def _due(self, done: int, save_now: bool) -> Due:
        training, is_last = self.config.training, done == self.config.training.steps
        save = is_last or done % training.save_freq == 0 or save_now
        return Due(
            log=save or done % training.log_freq == 0,  # a resumed run begins with a new log line
            validate=self.validation is not None and (is_last or done % training.val_freq == 0),
            save=save,
        )

    def _save_timer_expired(self) -> bool:
        period_s = self.config.training.save_every_min * 60
        return period_s > 0 and time.monotonic() - self.saved_s >= period_s

    def _metrics(self, done: int, result: StepResult) -> Metrics:
        gc.collect(0)
        means = self.averages.means(self.world)
        return {
            **means,
            "lr": result.lr,
            "grad_norm": result.grad_norm.item(),
            "samples_per_s": self.order.global_batch / means["step_s"],
            "epoch": done * self.order.global_batch / len(self.dataset),
            "memory_gb": _peak_memory_bytes(self.world.device) / 1e9,
        }

    def _stop(self, writer: CheckpointWriter | None, done: int, received: int | None) -> None:
        if writer:
            writer.wait()
        self.world.barrier()  # torchrun ends the other processes as soon as one has exited
        if received == signal.SIGINT:
            log.info("saved at step %d", done)
            raise KeyboardInterrupt if self.world.is_main else SystemExit(EXIT_INTERRUPTED)
        self.world.exit_with(
            TransientError(f"stopped by SIGTERM; saved at step {done}, the same command resumes from there")
        )

    @contextlib.contextmanager
    def _outputs(self) -> Iterator[tuple[Tracker, CheckpointWriter] | None]:
        """Yield what the main process writes with, None on the other ranks."""
        if not self.world.is_main:
            yield None
            return
        training, checkpoint = self.config.training, self.checkpoint
        with (
            Tracker(self.config, self.first_step) as tracker,
            CheckpointWriter(training, checkpoint, self.optimizer, tracker.draw_curves) as writer,
        ):
            yield tracker, writer


@contextlib.contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Keep Python's garbage collector out of the steps: it would walk over millions of objects that live to the end."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _peak_memory_bytes(device: torch.device) -> int:
    """Return the peak of the memory allocated on the GPU, or of this process's own on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
