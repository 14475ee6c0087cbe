"""Shows what a training would do, with one step of it timed, and what is cached; nothing is written."""

import time
from itertools import islice

import numpy as np
import numpy.typing as npt
import yaml

from common.lerobot.dataset import Dataset
from common.lerobot.frame_cache import cache_bytes, clear_cache, list_cache
from common.lerobot.frames import Rows
from common.report.formatting import counted
from common.storage.disk import free_bytes
from stage2_train.batches import FrameStore, load_batches
from stage2_train.checkpoints.initial import initial_checkpoint, parameter_count
from stage2_train.config import TrainConfig
from stage2_train.device import set_up_device
from stage2_train.distributed import init_distributed
from stage2_train.loop import Trainer
from stage2_train.train import cache_dir, open_dataset


class FirstFrames:
    """The first images of one camera, returned for any row: enough to time a step without decoding the dataset."""

    def __init__(self, dataset: Dataset, camera: str, count: int) -> None:
        self.shape = dataset.cameras[camera]
        self._images = np.stack(list(islice(dataset.images(dataset.episodes[0], camera), count)))

    def take(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Copy one of the images for each of `rows` into `out`."""
        np.take(self._images, rows % len(self._images), axis=0, out=out, mode="clip")


def dry_run(config: TrainConfig) -> None:
    """Print the resolved configuration, the dataset's numbers, memory and disk needed, and the time of a step."""
    training = config.training
    dataset, episodes, held_out = open_dataset(config)
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    with init_distributed(training.device) as world:
        set_up_device(training, world.device)
        checkpoint = initial_checkpoint(config, dataset, held_out)
        frames = {camera: FirstFrames(dataset, camera, training.batch_size) for camera in dataset.cameras}
        store = FrameStore(dataset, frames)
        trainer = Trainer(config, dataset, store, episodes, held_out, checkpoint, world)
        trainer.start_from(None, 0)
        step_s = _time_step(trainer)
    parameters, weights_gb = parameter_count(trainer.network), parameter_count(trainer.network) * 4 / 1e9
    samples, global_batch = len(trainer.dataset), trainer.order.global_batch
    cameras = ", ".join(f"{name} {'x'.join(map(str, frame.shape[:2]))}" for name, frame in frames.items()) or "none"
    folder = cache_dir(config)
    free = f"{free_bytes(folder) / 1e9:.2f} GB are free"
    cache = f"{cache_bytes(dataset) / 1e9:.2f} GB of decoded images in {folder}, where {free}"
    if config.data.frame_cache == "none":
        cache = "none: every image is decoded at every use"
    print(
        f"dataset     {counted(len(episodes), 'episode')} to train on, {len(held_out)} held out; {samples} samples, "
        f"{dataset.fps} fps; cameras: {cameras}\n"
        f"network     {parameters / 1e6:.1f} M parameters\n"
        f"batch       {global_batch} samples a step, {samples / global_batch:.1f} steps an epoch, "
        f"{training.steps * global_batch / samples:.1f} epochs\n"
        f"memory      {4 * weights_gb:.2f} GB for weights, gradients and optimizer state, plus the activations\n"
        f"cache       {cache}\n"
        f"checkpoint  {3 * weights_gb:.2f} GB each\n"
        f"time        {step_s:.3f} s a step on {world.device}, {training.steps * step_s / 3600:.2f} h for all of them"
    )


def show_cache(config: TrainConfig, clear: bool) -> None:
    """List the images in data.cache_dir, and remove them if asked to."""
    folder = cache_dir(config)
    for line in list_cache(folder) or [f"nothing is cached in {folder}"]:
        print(line)
    if clear:
        clear_cache(folder)
        print("removed")


def _time_step(trainer: Trainer) -> float:
    batches = load_batches(trainer.dataset, trainer.order, 0, 2, 0, trainer.world.device)
    for step in range(2):  # the first one allocates, and compiles
        started_s = time.perf_counter()
        trainer.stepper.step(batches, step).grad_norm.item()  # waits for the device
    return time.perf_counter() - started_s
