"""Export a policy as ONNX, with its normalization inside, for a robot without torch.

The graph is run by onnxruntime on the evaluated episodes and kept only when its actions agree with those of the policy.
"""

import importlib
import logging
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from common.cli.command import UserError
from common.lerobot.metadata import ACTION, ENVIRONMENT, STATE, image_key
from common.policy import Policy
from common.storage.files import new_folder, require_ours, write_json
from stage3_eval.inputs import Inputs
from stage3_eval.metrics.summary import Record
from stage3_eval.metrics.totals import APPLY
from stage3_eval.predict import Batch, observations, spread
from stage3_eval.recording import read_rows

FORMAT: Literal["bag2act_onnx_policy"] = "bag2act_onnx_policy"
ONNX, ABOUT = "policy.onnx", "policy.json"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4  # in robot units, and in the network's, where an action's spread is 1
VERIFIED = 50  # frames per episode, evenly spaced
OPSET = 18
UNKNOWN = (
    "what an action means is not known, so nothing says how to apply it: find out from whoever recorded the data, and export "
    "again with --action-meaning"
)


class TensorInfo(Record):
    """A tensor of the graph; the shape is without the batch."""

    dtype: str
    shape: list[int]


class Verification(Record):
    """How far onnxruntime is off, in robot units and in units of an action's spread."""

    frames: int
    largest_difference: float
    largest_difference_normalized: float


class PolicyInfo(Record):
    """policy.json: what a robot driver has to know."""

    format: Literal["bag2act_onnx_policy"] = FORMAT
    inputs: dict[str, TensorInfo]
    output: dict[str, TensorInfo]
    joint_names: list[str]
    fps: int
    action_meaning: str | None
    apply: str
    cameras: dict[str, list[int]]
    chunk_size: int
    n_action_steps: int
    temporal_ensemble_coeff: float | None
    checkpoint_sha256: str
    verified: Verification


class Graph(nn.Module):
    """The policy from observations to a chunk, both in robot units; `inputs` describes what it takes, in this order."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy, self.network, shape = policy, policy.network, policy.checkpoint.shape
        self.inputs = {STATE: TensorInfo(dtype="float32", shape=[shape.state_dim])}
        if shape.environment_dim:
            self.inputs[ENVIRONMENT] = TensorInfo(dtype="float32", shape=[shape.environment_dim])
        for camera, size in policy.cameras.items():
            self.inputs[image_key(camera)] = TensorInfo(dtype="uint8", shape=list(size))

    def forward(self, *values: Tensor) -> Tensor:
        """Normalize, predict and denormalize; returns (B, chunk, A)."""
        observation = dict(zip(self.inputs, values, strict=True))
        normalizer = self.policy.normalizer
        environment = normalizer.apply(ENVIRONMENT, observation[ENVIRONMENT]) if ENVIRONMENT in observation else None
        images = [normalizer.image(key, observation[key]) for key in map(image_key, self.policy.cameras)]
        output = self.network(normalizer.apply(STATE, observation[STATE]), images, environment_BE=environment)
        return normalizer.restore(ACTION, output.actions_BCA)


def require_exportable(folder: Path) -> None:
    """Raise UserError when the packages of the extra are missing or `folder` holds anything but an earlier export."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError(f"--export needs {', '.join(PACKAGES)}: pip install 'bag2act[onnx]'") from None
    require_ours(folder, "export", "--export", sign=ABOUT, names=(ONNX, ABOUT, "README.md"))


def export(inputs: Inputs, folder: Path, batch_size: int) -> str:
    """Write the folder at once and return a line about it; raises UserError when onnxruntime's actions differ."""
    graph = Graph(Policy(inputs.policy.checkpoint, "cpu")).eval()
    with new_folder(folder, manifest=False) as temporary:
        _write_graph(graph, temporary / ONNX)
        verified = _verify(inputs, graph, temporary / ONNX, batch_size)
        difference = max(verified.largest_difference, verified.largest_difference_normalized)
        if not difference <= TOLERANCE:
            raise UserError(
                f"--export {folder}: onnxruntime's actions differ by {difference:.2g} from the policy's (at most "
                f"{TOLERANCE:g} is allowed); nothing is kept"
            )
        write_json(temporary / ABOUT, _describe(inputs, graph, verified).model_dump(mode="json"))
    return f"exported to {folder / ONNX}: onnxruntime agrees on {verified.frames} frames to {difference:.1e}"


def _write_graph(graph: Graph, path: Path) -> None:
    example = [torch.zeros(2, *info.shape, dtype=getattr(torch, info.dtype)) for info in graph.inputs.values()]
    batch = torch.export.Dim("batch")
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        torch.onnx.export(
            graph,
            tuple(example),
            path,
            input_names=list(graph.inputs),
            output_names=[ACTION],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            dynamic_shapes=(tuple({0: batch} for _ in example),),
            verbose=False,
        )


def _verify(inputs: Inputs, graph: Graph, path: Path, batch_size: int) -> Verification:
    onnxruntime = importlib.import_module("onnxruntime")  # an optional dependency
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    policy, frames = graph.policy, 0
    largest = np.zeros(2)  # in robot units, normalized
    renamed = policy.checkpoint.rename_map
    vectors = [key for key in graph.inputs if key in (STATE, ENVIRONMENT)]
    for episode in inputs.episodes:
        rows = read_rows(inputs.dataset, episode, [*vectors, ACTION])
        chosen = spread(episode.length, VERIFIED)
        batches = observations(policy, inputs.dataset, episode, rows, batch_size)
        for start, batch in zip(range(0, episode.length, batch_size), batches, strict=True):
            picked = chosen[(chosen >= start) & (chosen < start + batch_size)] - start
            if not len(picked):
                continue
            sample: Batch = {key: value[picked] for key, value in batch.items()}
            (output,) = session.run([ACTION], {renamed.get(key, key): value for key, value in sample.items()})
            expected, found = policy.predict_chunk(sample), torch.from_numpy(output)
            normalized = policy.normalizer.apply(ACTION, found) - policy.normalizer.apply(ACTION, expected)
            differences = [float(difference.abs().max()) for difference in (found - expected, normalized)]
            frames, largest = frames + len(picked), np.maximum(largest, differences)
    return Verification(frames=frames, largest_difference=largest[0], largest_difference_normalized=largest[1])


def _describe(inputs: Inputs, graph: Graph, verified: Verification) -> PolicyInfo:
    policy, dataset = inputs.policy, inputs.dataset
    action = TensorInfo(dtype="float32", shape=[policy.chunk_size, policy.checkpoint.shape.action_dim])
    return PolicyInfo(
        inputs=graph.inputs,
        output={ACTION: action},
        joint_names=list(dataset.joint_names),
        fps=dataset.fps,
        action_meaning=inputs.action_meaning,
        apply=APPLY[inputs.action_meaning] if inputs.action_meaning else UNKNOWN,
        cameras={camera: list(size) for camera, size in policy.cameras.items()},
        chunk_size=policy.chunk_size,
        n_action_steps=policy.n_action_steps,
        temporal_ensemble_coeff=policy.temporal_ensemble_coeff,
        checkpoint_sha256=inputs.checkpoint_sha256,
        verified=verified,
    )
