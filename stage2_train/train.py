"""A configuration in, checkpoints out: everything that happens before the first step, in the order in which it happens."""

import contextlib
import ctypes
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from common.cli.command import TransientError, UserError
from common.lerobot.dataset import Dataset, Episode
from common.lerobot.frame_cache import default_cache_dir, open_frames
from common.storage.files import locked, remove_stale
from stage2_train.batches import Recordings, split
from stage2_train.checkpoints.contents import new_checkpoint
from stage2_train.checkpoints.resume import find_start
from stage2_train.checkpoints.saving import checkpoint_name
from stage2_train.config import TrainConfig, TrainingConfig
from stage2_train.loop import Run
from stage2_train.ranks import Ranks, join

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
log = logging.getLogger(__name__)


def train(config: TrainConfig) -> Path:
    """Train to the last step and return the folder of the last checkpoint.

    Raises UserError for what the operator can mend, before the first step wherever possible, and TransientError where
    the same command goes on from what is saved: after SIGTERM, or when another process is lost.
    """
    dataset = Dataset.open(Path(config.data.dataset)).in_size(config.data.size)
    episodes, held_out = split(dataset, config.data.episodes, config.data.val_fraction)
    check(config, dataset, episodes)
    output_dir = Path(config.training.output_dir)
    with _terminated() as (terminated, looping), join(config.training.device) as ranks, contextlib.ExitStack() as stack:
        if not ranks.is_first:
            logging.getLogger().setLevel(logging.WARNING)
        set_up_device(config.training, ranks)
        checkpoint = new_checkpoint(config, dataset, held_out)
        start = None
        if ranks.is_first:
            stack.enter_context(locked(output_dir))
            remove_stale(output_dir)
            start = find_start(config, dataset.identity, ranks.world_size)
        first_step = ranks.share_number(start.step if start else 0)
        if first_step >= config.training.steps:
            log.info("finished already: %s has step %d of %d", output_dir, first_step, config.training.steps)
            return start.folder if start else output_dir / checkpoint_name(first_step)
        recordings = _open_recordings(config, dataset, ranks)
        run = Run(config, dataset, recordings, episodes, held_out, checkpoint, ranks)
        run.go_on_from(start, first_step)
        looping.set()
        run.loop(terminated)
        return output_dir / checkpoint_name(config.training.steps)


def check(config: TrainConfig, dataset: Dataset, episodes: list[Episode]) -> None:
    """Refuse what cannot be trained, warn of what is probably not meant."""
    if dataset.fps != config.data.fps:
        raise UserError(
            f"data.fps={config.data.fps}, but {dataset.root} has {dataset.fps} frames per second; set data.fps"
        )
    chunk_size, lengths = config.model.chunk_size, [episode.length for episode in episodes]
    if chunk_size > max(lengths):
        raise UserError(
            f"model.chunk_size={chunk_size} is longer than every episode (the longest has {max(lengths)} frames); lower it"
        )
    shorter = sum(length < chunk_size for length in lengths)
    if shorter > len(lengths) / 2:
        log.warning("model.chunk_size=%d is longer than %d of %d episodes", chunk_size, shorter, len(lengths))
    for camera, (_, _, channels) in dataset.cameras.items():
        if channels != 3:
            raise UserError(f"camera {camera} of {dataset.root} has {channels} channels; images must have 3")


def set_up_device(training: TrainingConfig, ranks: Ranks) -> None:
    """Set what PyTorch keeps for the whole process; raises UserError for a precision that the device has not."""
    if training.amp == "fp16" and ranks.device.type == "cpu":
        raise UserError("training.amp=fp16 needs a CUDA device; on a CPU set training.amp=bf16 or none")
    torch.use_deterministic_algorithms(training.deterministic)
    if training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if ranks.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = not training.deterministic
    else:
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next one: to map and clear it anew took 5 % of a step on a CPU."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _open_recordings(config: TrainConfig, dataset: Dataset, ranks: Ranks) -> Recordings:
    """Open the images and columns: one process of each machine prepares them, the others wait for it."""
    cache_dir = Path(config.data.cache_dir) if config.data.cache_dir else default_cache_dir()
    require_writable(cache_dir)

    def opened() -> Recordings:
        frames = open_frames(dataset, cache_dir, config.data.frame_cache, build=builds)
        return Recordings(dataset, frames, cache_dir)

    builds = ranks.local_rank == 0
    recordings = opened() if builds else None
    ranks.wait_for_all()
    return recordings or opened()


def require_writable(cache_dir: Path) -> None:
    """Raise UserError when nothing can be kept in data.cache_dir."""
    problem = None
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = error.strerror
    if problem or not os.access(cache_dir, os.W_OK):
        raise UserError(
            f"data.cache_dir={cache_dir} cannot be written to: {problem or 'not permitted'}; "
            "set data.cache_dir to a folder where decoded images may lie"
        )


@contextlib.contextmanager
def _terminated() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Yield what SIGTERM sets, so that the loop saves and leaves, and what to set when there is a loop to do so."""
    terminated, looping = threading.Event(), threading.Event()

    def hear(*_: object) -> None:
        terminated.set()
        if not looping.is_set():
            raise TransientError("stopped by SIGTERM before the first step")

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield terminated, looping
    finally:
        signal.signal(signal.SIGTERM, before)
