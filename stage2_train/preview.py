"""A configuration in; on stdout what a training with it would be, with one step of it timed. Nothing stays written."""

import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from common.cli.config import to_dict
from common.lerobot.dataset import Dataset
from common.lerobot.frame_cache import Rows, cache_bytes, default_cache_dir
from common.storage.files import free_bytes
from stage2_train.batches import Recordings, batches, split
from stage2_train.checkpoints.contents import new_checkpoint, trainable
from stage2_train.config import TrainConfig
from stage2_train.loop import Run
from stage2_train.ranks import join
from stage2_train.train import check, set_up_device


class FirstFrames:
    """A few images of one camera, given for any row: enough to time a step without decoding the dataset."""

    def __init__(self, dataset: Dataset, camera: str, count: int) -> None:
        self.shape = dataset.cameras[camera]
        self._images = np.stack(list(islice(dataset.images(dataset.episodes[0], camera), count)))

    def take(self, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        """Put some image for each of `rows` into `out`."""
        np.take(self._images, rows % len(self._images), axis=0, out=out, mode="clip")


def preview(config: TrainConfig) -> None:
    """Print the resolved configuration, the dataset's numbers, memory and disk needed, and the time of a step."""
    training = config.training
    dataset = Dataset.open(Path(config.data.dataset)).in_size(config.data.size)
    episodes, held_out = split(dataset, config.data.episodes, config.data.val_fraction)
    check(config, dataset, episodes)
    print(yaml.safe_dump(to_dict(config), sort_keys=False))
    with join(training.device) as ranks, tempfile.TemporaryDirectory() as scratch:
        set_up_device(training, ranks)
        checkpoint = new_checkpoint(config, dataset, held_out)
        frames = {camera: FirstFrames(dataset, camera, training.batch_size) for camera in dataset.cameras}
        run = Run(
            config, dataset, Recordings(dataset, dict(frames), Path(scratch)), episodes, held_out, checkpoint, ranks
        )
        run.go_on_from(None, 0)
        step_s = _time_a_step(run)
    weights_gb = trainable(run.network) * 4 / 1e9
    cache_dir = Path(config.data.cache_dir) if config.data.cache_dir else default_cache_dir()
    cameras = ", ".join(f"{name} {'x'.join(map(str, frame.shape[:2]))}" for name, frame in frames.items()) or "none"
    print(
        f"dataset     {len(episodes)} episodes to train on, {len(held_out)} held out; {len(run.samples)} samples, "
        f"{dataset.fps} fps; cameras: {cameras}\n"
        f"network     {trainable(run.network) / 1e6:.1f} M parameters\n"
        f"batch       {run.plan.global_batch} samples a step, {len(run.samples) / run.plan.global_batch:.1f} steps an epoch, "
        f"{training.steps * run.plan.global_batch / len(run.samples):.1f} epochs\n"
        f"memory      {4 * weights_gb:.2f} GB for weights, gradients and optimizer, and as much as the activations take\n"
        f"cache       {cache_bytes(dataset) / 1e9:.2f} GB of decoded images in {cache_dir}, "
        f"where {free_bytes(cache_dir) / 1e9:.2f} GB are free\n"
        f"checkpoint  {3 * weights_gb:.2f} GB each\n"
        f"time        {step_s:.3f} s a step on {ranks.device}, {training.steps * step_s / 3600:.2f} h for all of them"
    )


def _time_a_step(run: Run) -> float:
    feed = batches(run.samples, run.plan, 0, 2, 0, pin=False)
    for step in range(2):  # the first one allocates, and compiles
        started = time.perf_counter()
        run.gradients(feed, step)
        _, grad_norm = run.optimizer.step(step)
        grad_norm.item()  # waits for the device
    return time.perf_counter() - started
