"""One training from its configuration: everything that happens before the first step, in order, then the loop."""

import contextlib
import logging
import os
from pathlib import Path

from common.cli.command import EXIT_USER, UserError
from common.lerobot.dataset import Dataset
from common.lerobot.frame_cache import open_frames
from common.lerobot.metadata import Episode
from common.lerobot.training import require_trainable
from common.storage.disk import default_cache_dir
from common.storage.files import locked, remove_stale
from stage2_train.batches import FrameStore, split_episodes
from stage2_train.checkpoints.initial import initial_checkpoint
from stage2_train.checkpoints.resume import ResumePoint, find_resume_point
from stage2_train.checkpoints.writer import checkpoint_name
from stage2_train.config import TrainConfig
from stage2_train.device import full_memory_named, set_up_device
from stage2_train.distributed import World, init_distributed
from stage2_train.loop import StopSignals, Trainer

REFUSED = -1  # instead of the steps done
log = logging.getLogger(__name__)


def train(config: TrainConfig) -> Path:
    """Train to the last step and return the folder of the last checkpoint.

    Raises UserError for what the user can fix, before the first step wherever possible, and TransientError where
    the same command resumes from what is saved: after SIGTERM, or when another process is lost; KeyboardInterrupt after Ctrl-C.
    """
    dataset, episodes, held_out = open_dataset(config)
    output_dir = Path(config.training.output_dir)
    with (
        StopSignals() as signals,
        init_distributed(config.training.device) as world,
        full_memory_named(config.training),
        contextlib.ExitStack() as stack,
    ):
        if not world.is_main:
            logging.getLogger().setLevel(logging.WARNING)
        set_up_device(config.training, world.device)
        checkpoint = initial_checkpoint(config, dataset, held_out)
        resume_point, first_step = _claim_output(config, dataset, world, stack)
        if first_step >= config.training.steps:
            log.info("already finished: %s has step %d of %d", output_dir, first_step, config.training.steps)
            return resume_point.folder if resume_point else output_dir / checkpoint_name(first_step)
        store = _open_frame_store(config, dataset, world)
        trainer = Trainer(config, dataset, store, episodes, held_out, checkpoint, world)
        trainer.start_from(resume_point, first_step)
        trainer.run(signals)
        return output_dir / checkpoint_name(config.training.steps)


def open_dataset(config: TrainConfig) -> tuple[Dataset, list[Episode], list[Episode]]:
    """Return the dataset, its training episodes and its held-out episodes.

    Raises UserError for what cannot be trained on, and warns of what is probably a mistake.
    """
    data = config.data
    dataset = Dataset.open(Path(data.dataset), data.rename, data.use_cameras).in_size(data.image_size)
    episodes, held_out = split_episodes(dataset, data.episodes, data.val_fraction)
    if data.val_fraction and not held_out:
        log.warning("data.val_fraction=%g of %d episodes rounds to none held out", data.val_fraction, len(episodes))
    if data.fps is not None and dataset.fps != data.fps:
        raise UserError(f"data.fps={data.fps}, but {dataset.root} has {dataset.fps} frames per second; set data.fps")
    chunk_size, lengths = config.model.chunk_size, [episode.length for episode in episodes]
    if chunk_size > max(lengths):
        raise UserError(
            f"model.chunk_size={chunk_size} is longer than every episode (the longest has {max(lengths)} frames); lower it"
        )
    shorter = sum(length < chunk_size for length in lengths)
    if shorter > len(lengths) / 2:
        log.warning("model.chunk_size=%d is longer than %d of %d episodes", chunk_size, shorter, len(lengths))
    require_trainable(dataset)
    return dataset, episodes, held_out


def _claim_output(
    config: TrainConfig, dataset: Dataset, world: World, stack: contextlib.ExitStack
) -> tuple[ResumePoint | None, int]:
    """Lock the output folder in the main process, and return where to resume and the steps done before.

    Where the main process refuses, the others exit silently with its exit code: to them it would look lost.
    """
    output_dir, resume_point = Path(config.training.output_dir), None
    try:
        if world.is_main:
            stack.enter_context(locked(output_dir))
            remove_stale(output_dir)
            resume_point = find_resume_point(config, dataset.fingerprint, world.size)
    except UserError:
        world.broadcast_int(REFUSED)
        raise
    first_step = world.broadcast_int(resume_point.progress.step if resume_point else 0)
    if first_step == REFUSED:
        raise SystemExit(EXIT_USER)
    return resume_point, first_step


def cache_dir(config: TrainConfig) -> Path:
    """Return where images are cached."""
    return Path(config.data.cache_dir) if config.data.cache_dir else default_cache_dir()


def _open_frame_store(config: TrainConfig, dataset: Dataset, world: World) -> FrameStore:
    """Open columns and images: the first process of each machine fills the cache, the others wait for it."""
    folder = cache_dir(config)
    if config.data.frame_cache != "none":
        _require_writable(folder)
    store = FrameStore(dataset, open_frames(dataset, folder, config.data.frame_cache))
    world.barrier()  # machines take different times
    return store


def _require_writable(folder: Path) -> None:
    problem = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = error.strerror
    if problem or not os.access(folder, os.W_OK):
        raise UserError(
            f"data.cache_dir={folder} cannot be written to: {problem or 'not permitted'}; "
            "set data.cache_dir to a folder for decoded images"
        )
