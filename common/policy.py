"""Observations in, robot actions out: a trained ACT policy as a library for a robot's driver."""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from common.act.checkpoint import ENVIRONMENT, Checkpoint, new_network
from common.act.runs import pretrained_folder
from common.cli.command import UserError
from common.lerobot.dataset import ACTION, STATE, image_key
from common.storage.files import new_folder

Observation = Mapping[str, Tensor | npt.NDArray[Any]]


class Policy:
    """An ACT policy in robot units.

    Observations are `{"observation.state": (B, D) float, "observation.images.<camera>": (B, H, W, 3) uint8 RGB}`, as tensors
    or arrays; actions are (B, A) float32 tensors on the CPU.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        """Move a checkpoint to a device for inference; raises UserError when there is no such device here.

        The checkpoint's network is frozen: give a copy of one that is still in training.
        """
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device={device}: no CUDA device here; use cpu")
        self.checkpoint = checkpoint
        self.device = torch.device(device)
        self.n_action_steps = checkpoint.act.n_action_steps or checkpoint.act.chunk_size
        self.temporal_ensemble_coeff = checkpoint.act.temporal_ensemble_coeff
        self.network = checkpoint.network.to(self.device).freeze()
        self.normalizer = checkpoint.normalizer.to(self.device)
        self.reset()

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "Policy":
        """Load any ACT checkpoint of ours or of LeRobot 0.3 and later.

        `path` is a pretrained_model folder, a checkpoint around one, or a whole run, which stands for its newest checkpoint.
        Raises UserError in one line when weights or normalization are missing, damaged or do not fit config.json.
        """
        return cls(Checkpoint.read(pretrained_folder(Path(path))), device)

    @property
    def joint_names(self) -> list[str]:
        """Names of the action's dimensions, in order; joint_0 ... when the checkpoint does not name them."""
        return list(
            self.checkpoint.robot.joint_names or (f"joint_{i}" for i in range(self.checkpoint.shape.action_dim))
        )

    @property
    def fps(self) -> int | None:
        """Actions per second the policy was trained at."""
        return self.checkpoint.robot.fps

    @property
    def action_meaning(self) -> str | None:
        """`delta` (add to the present joint positions), `next_position` or `command` (go there); None: nobody said."""
        return self.checkpoint.robot.action_meaning

    @property
    def action_wrapped(self) -> bool | None:
        """Whether the training data's joint angles were wrapped to (-pi, pi]."""
        return self.checkpoint.robot.action_wrapped

    @property
    def cameras(self) -> dict[str, tuple[int, int, int]]:
        """Camera name -> (height, width, 3) of the images the policy was trained on, and therefore takes."""
        return self.checkpoint.shape.cameras

    @property
    def chunk_size(self) -> int:
        """Number of actions predicted at once."""
        return self.checkpoint.act.chunk_size

    def with_random_weights(self, seed: int = 0) -> "Policy":
        """Return the same policy before any training: what a comparison starts from."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = new_network(self.checkpoint.act, self.checkpoint.shape)
        return Policy(replace(self.checkpoint, network=network), str(self.device))

    @torch.no_grad()
    def predict_chunk(self, observation: Observation) -> Tensor:
        """Predict the next actions from one observation of each of B robots: (B, chunk, A) float32 in robot units.

        Raises UserError when an input is missing, has another size than in training or is not finite.
        """
        state_BD, images, environment_BE = self.inputs(observation)
        chunk_BCA = self.network(state_BD, images, environment_BE=environment_BE).actions_BCA
        return self.normalizer.restore(ACTION, chunk_BCA).float().cpu()

    @property
    def looks_next(self) -> bool:
        """Whether the next `select_action` predicts from its observation; otherwise it takes a queued action."""
        return self.temporal_ensemble_coeff is not None or not self._queue

    def reset(self) -> None:
        """Forget queued actions; call it at the start of every episode."""
        self._queue: deque[Tensor] = deque()
        self._ensemble: _Ensemble | None = None

    def select_action(self, observation: Observation) -> Tensor:
        """Return the action to execute now, (B, A) float32 in robot units.

        Pops from the queue of n_action_steps and predicts when it is empty; with temporal_ensemble_coeff it predicts at
        every call and averages all predictions made for this step (ACT, https://arxiv.org/abs/2304.13705, section IV-A).
        """
        if self.temporal_ensemble_coeff is not None:
            self._ensemble = self._ensemble or _Ensemble(self.temporal_ensemble_coeff, self.chunk_size)
            return self._ensemble.next(self.predict_chunk(observation))
        if not self._queue:
            self._queue.extend(self.predict_chunk(observation)[:, : self.n_action_steps].unbind(dim=1))
        return self._queue.popleft()

    def save(self, path: str | Path) -> None:
        """Write the folder at once: under `path` stands a whole checkpoint or nothing."""
        with new_folder(Path(path), manifest=False) as folder:
            self.checkpoint.write(folder)

    def inputs(self, observation: Observation) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Check an observation and normalize it: what the network takes (state, one image per camera, environment)."""
        observation = {self.checkpoint.rename_map.get(key, key): value for key, value in observation.items()}
        state_BD = self._vector(observation, STATE, self.checkpoint.shape.state_dim)
        images = [self._image(observation, name, shape, len(state_BD)) for name, shape in self.cameras.items()]
        if not self.checkpoint.shape.environment_dim:
            return state_BD, images, None
        return state_BD, images, self._vector(observation, ENVIRONMENT, self.checkpoint.shape.environment_dim)

    def _vector(self, observation: Observation, key: str, size: int) -> Tensor:
        value = torch.as_tensor(_get(observation, key), dtype=torch.float32)
        if value.ndim != 2 or value.shape[1] != size:
            raise UserError(f"{key} has shape {tuple(value.shape)}: this policy takes (batch, {size})")
        if not torch.isfinite(value).all():
            raise UserError(f"{key} holds a value that is not finite")
        return self.normalizer.apply(key, value.to(self.device))

    def _image(self, observation: Observation, name: str, shape: tuple[int, int, int], batch: int) -> Tensor:
        key = image_key(name)
        value = torch.as_tensor(_get(observation, key))
        if value.dtype != torch.uint8 or tuple(value.shape) != (batch, *shape):
            raise UserError(
                f"{key} has shape {tuple(value.shape)} and dtype {str(value.dtype).removeprefix('torch.')}: this policy was "
                f"trained on ({batch}, {shape[0]}, {shape[1]}, {shape[2]}) uint8; resize the images or train on this size"
            )
        return self.normalizer.image(key, value.to(self.device))


class _Ensemble:
    """Running weighted mean of all predictions for each coming step; weight exp(-coeff * i), i = 0 the oldest."""

    def __init__(self, coeff: float, chunk_size: int) -> None:
        self.weight_C = torch.exp(-coeff * torch.arange(chunk_size))
        self.total_C = torch.cumsum(self.weight_C, 0)
        self.mean_BCA: Tensor | None = None  # for the steps to come
        self.count_C1 = torch.zeros(0, 1, dtype=torch.long)  # predictions averaged so far for each of them

    def next(self, chunk_BCA: Tensor) -> Tensor:
        """Take in a new prediction and return the mean for the present step, (B, A)."""
        fresh = torch.ones(chunk_BCA.shape[1], 1, dtype=torch.long)
        if self.mean_BCA is None:
            self.mean_BCA, self.count_C1 = chunk_BCA.clone(), fresh
        else:
            seen = self.count_C1
            weighted = self.mean_BCA * self.total_C[seen - 1] + chunk_BCA[:, :-1] * self.weight_C[seen]
            self.mean_BCA = torch.cat([weighted / self.total_C[seen], chunk_BCA[:, -1:]], dim=1)
            self.count_C1 = torch.cat([(seen + 1).clamp(max=len(self.weight_C)), fresh[-1:]])
        action_BA = self.mean_BCA[:, 0]
        self.mean_BCA, self.count_C1 = self.mean_BCA[:, 1:], self.count_C1[1:]
        return action_BA


def _get(observation: Observation, key: str) -> Any:
    if key not in observation:
        raise UserError(f"the observation lacks {key}; it has {', '.join(observation)}")
    return observation[key]
