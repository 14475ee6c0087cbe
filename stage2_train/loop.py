"""A prepared training in, its steps done: gradients, update, and now and then metrics, validation and a checkpoint."""

import contextlib
import gc
import logging
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from common.act.checkpoint import Checkpoint
from common.act.network import Act
from common.cli.command import TransientError, UserError
from common.lerobot.dataset import Dataset, Episode
from common.lerobot.frame_cache import DecodedFrames
from stage2_train.batches import Batch, BatchOrder, Recordings, Samples, batches, step_seed
from stage2_train.checkpoints.contents import trainable
from stage2_train.checkpoints.resume import ResumePoint
from stage2_train.checkpoints.saving import Numbered, Saver
from stage2_train.config import TrainConfig
from stage2_train.loss_module import LossModule
from stage2_train.optimizer import NEVER, Optimizer
from stage2_train.ranks import Poll, Ranks
from stage2_train.track import Metrics, Tracker, Window, tracker
from stage2_train.validate import Validation

log = logging.getLogger(__name__)


class Run:
    """One training, from its first step or from a checkpoint to its last step."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        recordings: Recordings,
        episodes: list[Episode],
        held_out: list[Episode],
        checkpoint: Checkpoint,
        ranks: Ranks,
    ) -> None:
        training, model = config.training, config.model
        self.config, self.ranks, self.dataset = config, ranks, dataset
        self.plan = BatchOrder(
            *(training.seed, training.batch_size, ranks.rank, ranks.world_size, model.latent_dim),
            *(training.grad_accumulation, config.augment.enabled),
        )
        self.samples = Samples(recordings, episodes, model.chunk_size)
        self.validation = (
            Validation(recordings, held_out, model.chunk_size, training.batch_size, model.latent_dim)
            if held_out
            else None
        )
        self.checkpoint, self.network = checkpoint, checkpoint.network.to(ranks.device).train()
        self.optimizer = Optimizer(self.network, training, ranks.world_size)
        self.cameras = list(dataset.cameras)
        self.window = Window(ranks.device)
        self.first_step, self.dataset_changed = 0, False
        log.info(
            "%d episodes (%d held out), %d frames, %.1f M parameters; batch %d x %d processes x %d = %d; on %s",
            *(len(episodes), len(held_out), len(self.samples), trainable(self.network) / 1e6),
            *(training.batch_size, ranks.world_size, training.grad_accumulation, self.plan.global_batch, ranks.device),
        )

    def go_on_from(self, start: ResumePoint | None, first_step: int) -> None:
        """Take over the state of a checkpoint, which the first rank reads and shares, or leave things as they are."""
        self.first_step = first_step
        if start is not None:
            start.load(self.network, self.optimizer)
            log.info("going on from %s", start.folder)
        if first_step:
            self.ranks.share(list(self.optimizer.tensors().values()))
            self.window.load(start.window() if start else None, self.ranks)
        if self.config.training.compile:
            self.network.compile()
        model = self.ranks.wrap(self.network, self.config.training.ddp_bucket_mb)  # shares the weights
        self.learner = LossModule(
            self.network,
            model,
            self.checkpoint.normalizer.to(self.ranks.device),
            self.cameras,
            self.config.training,
            self.config.augment,
        )

    def loop(self, terminated: threading.Event) -> None:
        """Train to the last step; log, validate and save on the way.

        Raises TransientError, or SystemExit on all ranks but the first, once `terminated` is set on any rank.
        """
        training, ranks = self.config.training, self.ranks
        poll, saved = Poll(ranks), time.monotonic()
        pin = ranks.device.type == "cuda"
        feed = batches(self.samples, self.plan, self.first_step, training.steps, training.num_workers, pin)
        with self._saver() as saver, self._tracker() as track, _garbage_later():
            for step in range(self.first_step, training.steps):
                started = time.perf_counter()
                wait_s = self.gradients(feed, step)
                lr, grad_norm = self.optimizer.step(step)
                self.window.add_step(time.perf_counter() - started, wait_s)

                done, last = step + 1, step + 1 == training.steps
                due = time.monotonic() - saved >= training.save_every_min * 60 if training.save_every_min else False
                stop, timed = poll.ask(terminated.is_set(), due)
                logs, saves = (
                    done % training.log_freq == 0 or last,
                    done % training.save_freq == 0 or last or stop or timed,
                )
                metrics: Metrics = {}
                if logs or saves:
                    self._stop_if_not_finite()
                if logs:
                    metrics = self._metrics(done, lr, grad_norm.item())
                    gc.collect(0)
                if self.validation and (done % training.val_freq == 0 or last):
                    metrics["val_loss"] = self.validation.loss(self.learner, ranks)
                if metrics:
                    track.log({"step": done, **metrics})
                track.tick(done)
                numbered = self._numbered(track) if saves else None
                saved = time.monotonic() if saves else saved
                if saver:
                    saver.save(done, numbered, metrics.get("val_loss"))
                if stop:
                    self._leave(saver, done)

    def _leave(self, saver: Saver | None, done: int) -> None:
        if saver:
            saver.wait()
        self.ranks.wait_for_all()  # torchrun ends the others as soon as one is gone
        self.ranks.leave(
            TransientError(f"stopped by SIGTERM; saved at step {done}, the same command goes on from there")
        )

    def gradients(self, feed: Iterator[Batch], step: int) -> float:
        """Add up the gradients of this rank's part of a global batch, averaged over the ranks; returns the wait for data."""
        parts, ranks, wait_s = self.plan.accumulation, self.ranks, 0.0
        for part in range(parts):
            asked = time.perf_counter()
            batch = next(feed).each(lambda tensor: tensor.to(ranks.device, non_blocking=True))
            wait_s += time.perf_counter() - asked
            # dropout: nothing random to store or restore
            torch.manual_seed(step_seed(self.plan.seed, ranks.rank, step * parts + part))
            with self._no_averaging() if part < parts - 1 else contextlib.nullcontext():
                loss = self.learner.loss(batch, ranks.world_size * parts)
                self.optimizer.backward(loss.total / parts if parts > 1 else loss.total, step)
            self.window.add_loss(loss, 1 / parts)
        return wait_s

    def _no_averaging(self) -> contextlib.AbstractContextManager[None]:
        model = self.learner.model
        return contextlib.nullcontext() if isinstance(model, Act) else model.no_sync()  # type: ignore[operator]

    def _stop_if_not_finite(self) -> None:
        """Leave, all ranks together, when a loss or gradient was not finite; no weight has changed since."""
        first_R2 = self.ranks.gather(self.optimizer.guard.first_2)
        if not first_R2.isfinite().any():
            return
        losses, gradients = first_R2[:, 0].tolist(), first_R2[:, 1].min().item()
        rank = losses.index(min(losses))
        what = f"the loss of rank {rank}" if losses[rank] != NEVER else "a gradient, though no loss,"
        step = int(min(losses[rank], gradients)) + 1
        lr = self.config.training.lr
        self.ranks.leave(
            UserError(
                f"{what} is not finite at step {step}, and no weight has changed since; lower training.lr={lr:g} or look "
                "at the data, and start from the last checkpoint with model.init_from"
            )
        )

    def _metrics(self, done: int, lr: float, grad_norm: float) -> Metrics:
        means, self.window = self.window.means(self.ranks), Window(self.ranks.device)
        return {
            **means,
            "lr": lr,
            "grad_norm": grad_norm,
            "samples_per_s": self.plan.global_batch / means["step_s"],
            "epoch": done * self.plan.global_batch / len(self.samples),
            "memory_gb": _memory_bytes(self.ranks.device) / 1e9,
        }

    def _numbered(self, track: Tracker) -> Numbered:
        training = self.config.training
        shares = {
            "num_processes": self.ranks.world_size,
            "batch_size": training.batch_size,
            "grad_accum_steps": training.grad_accumulation,
        }
        return Numbered(shares, self.window.state(self.ranks), self._look_at_dataset, track.draw)

    def _look_at_dataset(self) -> None:
        """Notice, once, that the dataset is no longer what this training opened; raises UserError where that matters to it."""
        changed = None if self.dataset_changed else self.dataset.changed_file()
        if changed is None:
            return
        self.dataset_changed = True
        what = f"{changed} has changed since this training began"
        if any(isinstance(frames, DecodedFrames) and frames.reads_dataset for frames in self.samples.recordings.frames):
            raise UserError(
                f"{what}, which decodes its videos at every use; put it back and run the same command again"
            )
        log.warning(
            "%s: it goes on with what it read then, but can be resumed only where the dataset is as it was", what
        )

    def _saver(self) -> contextlib.AbstractContextManager[Saver | None]:
        if not self.ranks.is_first:
            return contextlib.nullcontext()
        training = self.config.training
        return Saver(Path(training.output_dir), self.checkpoint, self.optimizer, training.keep_last)

    def _tracker(self) -> contextlib.AbstractContextManager[Tracker]:
        return tracker(Path(self.config.training.output_dir), self.first_step, self.config, self.ranks.is_first)


@contextlib.contextmanager
def _garbage_later() -> Iterator[None]:
    """Keep Python's garbage collector out of the steps: it would walk over millions of objects that live to the end."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _memory_bytes(device: torch.device) -> int:
    """The most this process has held: of the device's memory, on a CPU of its own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
