"""A trained ACT policy as a library, for a robot's driver.

from common.policy import Policy

policy = Policy.load("/output/train-rosbag-act")
policy.reset()  # at the start of every episode
action = policy.select_action({"observation.state": state, "observation.images.color": image})
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from common.act.checkpoint import Checkpoint, new_network
from common.act.runs import pretrained_folder
from common.cli.command import UserError
from common.lerobot.metadata import ACTION, ENVIRONMENT, STATE, image_key
from common.storage.files import new_folder

Observation = Mapping[str, Tensor | npt.NDArray[Any]]


class Policy:
    """An ACT policy that takes observations and returns actions in robot units.

    An observation holds tensors or arrays for a batch of B robots: `observation.state`, (B, D) float, in the order and units
    of the training data, and `observation.images.<camera>`, (B, H, W, 3) uint8 RGB, for every camera in `cameras`. Policies
    that were trained with an environment state also take `observation.environment_state`, (B, E) float. Actions are (B, A)
    float32 tensors on the CPU; `joint_names`, `fps` and `action_meaning` tell how to apply them.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        """Prepare a checkpoint for inference on `device`, such as cpu or cuda; raises UserError when CUDA is not available.

        The checkpoint's network is moved to the device and frozen: pass a copy of a network that is still being trained.
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
        """Load a checkpoint that this package or LeRobot 0.3 or later has written.

        `path` is a `pretrained_model` folder, the checkpoint that contains it, or a training's output folder, of which the
        newest complete checkpoint is loaded. Raises UserError when weights or normalization statistics are missing, damaged
        or do not fit config.json.
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
        """Frequency in Hz at which actions are to be executed: that of the training data. None if unknown."""
        return self.checkpoint.robot.fps

    @property
    def action_meaning(self) -> str | None:
        """How to apply an action: `delta` is added to the current joint positions, `next_position` and `command` are targets.

        None if unknown.
        """
        return self.checkpoint.robot.action_meaning

    @property
    def action_wrapped(self) -> bool | None:
        """Whether the joint angles of the training data were wrapped to (-pi, pi]; None if unknown."""
        return self.checkpoint.robot.action_wrapped

    @property
    def cameras(self) -> dict[str, tuple[int, int, int]]:
        """Shape (height, width, 3) of the images of every camera that an observation must contain, by camera name."""
        return self.checkpoint.shape.cameras

    @property
    def chunk_size(self) -> int:
        """Number of actions that are predicted at once."""
        return self.checkpoint.act.chunk_size

    def with_random_weights(self, seed: int = 0) -> "Policy":
        """Return an untrained policy with the same architecture and normalization, as a baseline."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = new_network(self.checkpoint.act, self.checkpoint.shape)
        return Policy(replace(self.checkpoint, network=network), str(self.device))

    @torch.no_grad()
    def predict_chunk(self, observation: Observation) -> Tensor:
        """Predict the next `chunk_size` actions: (B, chunk_size, A) float32, in robot units, on the CPU.

        The queue and the ensemble of `select_action` are not touched. Raises UserError when an input is missing, has another
        shape than in training or is not finite.
        """
        state_BD, images, environment_BE = self.inputs(observation)
        chunk_BCA = self.network(state_BD, images, environment_BE=environment_BE).actions_BCA
        return self.normalizer.restore(ACTION, chunk_BCA).float().cpu()

    @property
    def predicts_next(self) -> bool:
        """Whether the next `select_action` runs the network on its observation; otherwise it takes a queued action."""
        return self.temporal_ensemble_coeff is not None or not self._queue

    def reset(self) -> None:
        """Discard queued actions and earlier predictions. Call it at the start of every episode."""
        self._queue: deque[Tensor] = deque()
        self._ensemble: _Ensemble | None = None

    def select_action(self, observation: Observation) -> Tensor:
        """Return the action to execute now: (B, A) float32, in robot units, on the CPU. Call it `fps` times per second.

        By default, a predicted chunk is queued, its first `n_action_steps` actions are returned one by one, and the next
        chunk is predicted when the queue is empty. With `temporal_ensemble_coeff`, every call predicts a chunk and returns
        the weighted mean of all predictions for this step (ACT, https://arxiv.org/abs/2304.13705, section IV-A). Raises
        UserError as `predict_chunk` does.
        """
        if self.temporal_ensemble_coeff is not None:
            self._ensemble = self._ensemble or _Ensemble(self.temporal_ensemble_coeff, self.chunk_size)
            return self._ensemble.next(self.predict_chunk(observation))
        if not self._queue:
            self._queue.extend(self.predict_chunk(observation)[:, : self.n_action_steps].unbind(dim=1))
        return self._queue.popleft()

    def save(self, path: str | Path) -> None:
        """Write the policy as a `pretrained_model` folder that LeRobot also loads; it appears complete or not at all."""
        with new_folder(Path(path), manifest=False) as folder:
            self.checkpoint.write(folder)

    def inputs(self, observation: Observation) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Check and normalize an observation; return the network's inputs: state, one image per camera, environment state."""
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
    """Running weighted mean of all predictions for every future step, with weight exp(-coeff * i), where 0 is the oldest."""

    def __init__(self, coeff: float, chunk_size: int) -> None:
        self.weight_C = torch.exp(-coeff * torch.arange(chunk_size))
        self.total_C = torch.cumsum(self.weight_C, 0)
        self.mean_BCA: Tensor | None = None  # of the future steps
        self.count_C1 = torch.zeros(0, 1, dtype=torch.long)  # predictions averaged so far for each of them

    def next(self, chunk_BCA: Tensor) -> Tensor:
        """Add a prediction (B, chunk, A) and return the mean for the current step (B, A)."""
        first = torch.ones(chunk_BCA.shape[1], 1, dtype=torch.long)
        if self.mean_BCA is None:
            self.mean_BCA, self.count_C1 = chunk_BCA.clone(), first
        else:
            seen = self.count_C1
            weighted = self.mean_BCA * self.total_C[seen - 1] + chunk_BCA[:, :-1] * self.weight_C[seen]
            self.mean_BCA = torch.cat([weighted / self.total_C[seen], chunk_BCA[:, -1:]], dim=1)
            self.count_C1 = torch.cat([(seen + 1).clamp(max=len(self.weight_C)), first[-1:]])
        action_BA = self.mean_BCA[:, 0]
        self.mean_BCA, self.count_C1 = self.mean_BCA[:, 1:], self.count_C1[1:]
        return action_BA


def _get(observation: Observation, key: str) -> Any:
    if key not in observation:
        raise UserError(f"the observation lacks {key}; it has {', '.join(observation)}")
    return observation[key]
