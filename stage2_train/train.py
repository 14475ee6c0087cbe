"""A configuration in, checkpoints out: the training loop, in the order in which things happen."""

import logging
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from common import config as configuration
from common.act import Act, parameter_groups
from common.command import UserError
from common.dataset import ACTION, STATE, Dataset, Episode, picture_key
from common.frames import default_cache_dir
from common.normalise import Normaliser
from stage2_train.batches import Batch, Plan, Samples, batches, split, step_seed
from stage2_train.checkpoints import new_checkpoint, refuse_mixing, save, trainable
from stage2_train.config import TrainConfig, TrainingConfig
from stage2_train.loss import Loss, act_loss
from stage2_train.ranks import Ranks, join
from stage2_train.schedule import learning_rate_factor
from stage2_train.track import Window, tracker

PRECISIONS = {"none": None, "bf16": torch.bfloat16}
log = logging.getLogger(__name__)


def train(config: TrainConfig) -> Path:
    """Train to the last step and return the folder of the last checkpoint.

    Raises UserError for what the operator can mend, before the first step wherever possible.
    """
    dataset = Dataset.open(Path(config.data.dataset))
    episodes, held_out = split(dataset, config.data.episodes, config.data.val_fraction)
    check(config, dataset, episodes)
    with join(config.training.device) as ranks:
        if not ranks.is_first:
            logging.getLogger().setLevel(logging.WARNING)
        refuse_mixing(Path(config.training.output_dir))
        ranks.wait_for_all()  # nobody creates the folder before everybody has looked
        return _train(config, dataset, episodes, held_out, ranks)


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
            raise UserError(f"camera {camera} of {dataset.root} has {channels} channels; pictures must have 3")


def _train(
    config: TrainConfig, dataset: Dataset, episodes: list[Episode], held_out: list[Episode], ranks: Ranks
) -> Path:
    training, output_dir = config.training, Path(config.training.output_dir)
    plan = Plan(training.seed, training.batch_size, ranks.rank, ranks.world_size, config.model.latent_dim)
    cache_dir = Path(config.data.cache_dir) if config.data.cache_dir else default_cache_dir()
    samples = Samples(dataset, episodes, config.model.chunk_size, cache_dir)
    checkpoint = new_checkpoint(config, dataset, held_out)
    network = checkpoint.network.to(ranks.device)
    learner = Learner(
        config, ranks.wrap(network).train(), checkpoint.normaliser.to(ranks.device), list(dataset.cameras)
    )
    optimizer = Optimizer(network, training)
    log.info(
        "%d episodes (%d held out), %d frames, %.1f M parameters; batch %d x %d processes = %d; on %s",
        *(len(episodes), len(held_out), len(samples), trainable(network) / 1e6),
        *(plan.batch_size, plan.world_size, plan.global_batch, ranks.device),
    )
    folder = output_dir
    with tracker(output_dir, training.steps, config.wandb, configuration.to_dict(config), ranks.is_first) as track:
        feed = batches(samples, plan, 0, training.steps, training.num_workers, pin=ranks.device.type == "cuda")
        window = Window(ranks.device)
        for step in range(training.steps):
            started = time.perf_counter()
            batch = next(feed).each(lambda tensor: tensor.to(ranks.device, non_blocking=True))
            wait_s = time.perf_counter() - started

            torch.manual_seed(step_seed(training.seed, ranks.rank, step))  # dropout: nothing random to store or restore
            loss = learner.loss(batch, ranks.world_size)
            loss.total.backward()  # type: ignore[no-untyped-call]
            lr, grad_norm = optimizer.step(step)
            window.add(loss, time.perf_counter() - started, wait_s)

            done = step + 1
            if done % training.log_freq == 0 or done == training.steps:
                metrics, window = window.means(ranks), Window(ranks.device)
                if not math.isfinite(metrics["loss"]):
                    raise UserError(f"the loss is {metrics['loss']} at step {done}; lower training.lr={training.lr:g}")
                rate = plan.global_batch / metrics["step_s"]
                epoch = done * plan.global_batch / len(samples)
                track.log(
                    {
                        "step": done,
                        **metrics,
                        "lr": lr,
                        "grad_norm": grad_norm.item(),
                        "samples_per_s": rate,
                        "epoch": epoch,
                    }
                )
            if done % training.save_freq == 0 or done == training.steps:
                if ranks.is_first:
                    folder = save(output_dir, done, checkpoint)
                    track.draw()
                ranks.wait_for_all()
    return folder


class Learner:
    """A batch in robot units in, the loss out."""

    def __init__(self, config: TrainConfig, model: nn.Module, normaliser: Normaliser, cameras: list[str]) -> None:
        self._model, self._normaliser, self._training = model, normaliser, config.training
        self._keys = [picture_key(camera) for camera in cameras]
        self._precision = PRECISIONS[config.training.amp]

    def loss(self, batch: Batch, world_size: int) -> Loss:
        """Normalise on the device, predict, and compare with what was recorded."""
        action_BCA = self._normaliser.apply(ACTION, batch.action_BCA)
        state_BS = self._normaliser.apply(STATE, batch.state_BS)
        pictures = [
            self._normaliser.picture(key, picture) for key, picture in zip(self._keys, batch.pictures, strict=True)
        ]
        with torch.autocast(state_BS.device.type, self._precision, enabled=self._precision is not None):
            output = self._model(state_BS, pictures, action_BCA, batch.is_pad_BC, batch.noise_BL)
        training = self._training
        return act_loss(
            output, action_BCA, batch.is_pad_BC, training.kl_weight, batch.valid_count, world_size, training.l1_rule
        )


class Optimizer:
    """AdamW with the schedule and the clipping of the configuration, as LeRobot's ACT preset has them."""

    def __init__(self, network: Act, training: TrainingConfig) -> None:
        self._network, self._training = network, training
        groups = parameter_groups(network, training.lr, training.lr_backbone)
        self._base_lrs = [group["lr"] for group in groups]
        self._adamw = AdamW(groups, lr=training.lr, weight_decay=training.weight_decay, fused=True)

    def step(self, step: int) -> tuple[float, Tensor]:
        """Update the weights from their gradients and clear them; returns the learning rate and the norm before clipping."""
        training = self._training
        floor = training.min_lr / training.lr if training.lr > 0 else 0.0
        factor = learning_rate_factor(step, training.steps, training.warmup_steps, floor, training.scheduler)
        for group, base_lr in zip(self._adamw.param_groups, self._base_lrs, strict=True):
            group["lr"] = base_lr * factor
        grad_norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), training.grad_clip_norm or math.inf)
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        return training.lr * factor, grad_norm
