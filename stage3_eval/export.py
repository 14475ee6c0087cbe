"""An evaluated policy in; policy.onnx, with normalization inside, and policy.json out: a robot then needs no torch.

What is written is run by onnxruntime on the evaluated episodes first, and kept only when it says what the policy says.
"""

import importlib
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.act.checkpoint import ENVIRONMENT
from common.cli.command import UserError
from common.lerobot.dataset import ACTION, STATE, image_key
from common.policy import Policy
from common.storage.files import new_folder, require_ours, write_json
from stage3_eval.inputs import Inputs
from stage3_eval.metrics.totals import APPLY
from stage3_eval.predict import Batch, observations, spread
from stage3_eval.recording import read_rows

FORMAT = "bag2act_onnx_policy"
ONNX, ABOUT, README = "policy.onnx", "policy.json", "README.md"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4  # in robot units, and in the network's, where an action's spread is 1
VERIFIED = 50  # frames per episode, evenly spread
OPSET = 18

USE = """# An ACT policy for onnxruntime

`policy.onnx` takes what the robot measures and the cameras see, as they are, and returns the next {chunk_size} actions in
robot units; `policy.json` says which joints, cameras and frame rate. {apply}

```python
import json
from pathlib import Path
import numpy as np
import onnxruntime

about = json.loads(Path("policy.json").read_text())
session = onnxruntime.InferenceSession("policy.onnx", providers=["CPUExecutionProvider"])
observation = {{key: np.zeros((1, *of["shape"]), of["dtype"]) for key, of in about["inputs"].items()}}
(chunk,) = session.run(["action"], observation)  # (1, chunk_size, joints) float32
```

Images are RGB, height x width x 3. Execute the first `n_action_steps` actions of a chunk, one per 1/fps s, then predict
again.
"""


class Graph(nn.Module):
    """Observations in robot units in, the chunk in robot units out; the inputs are named by `keys`, in their order."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = policy
        self.network = policy.network
        environment = [ENVIRONMENT] if policy.checkpoint.shape.environment_dim else []
        self.keys = [STATE, *environment, *(image_key(camera) for camera in policy.cameras)]

    def forward(self, *values: Tensor) -> Tensor:
        """Normalize, predict, restore: (B, chunk, A)."""
        of = dict(zip(self.keys, values, strict=True))
        normalizer = self._policy.normalizer
        environment = normalizer.apply(ENVIRONMENT, of[ENVIRONMENT]) if ENVIRONMENT in of else None
        images = [normalizer.image(key, of[key]) for key in map(image_key, self._policy.cameras)]
        output = self.network(normalizer.apply(STATE, of[STATE]), images, environment_BE=environment)
        return normalizer.restore(ACTION, output.actions_BCA)


def require_exportable(folder: Path) -> None:
    """Raise UserError when the packages of the extra are missing or `folder` holds anything but an earlier export."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError(f"--export needs {', '.join(PACKAGES)}: pip install 'bag2act[onnx]'") from None
    require_ours(folder, "export of ours", "--export", sign=ABOUT, names=(ONNX, ABOUT, README))


def export(inputs: Inputs, folder: Path, batch_size: int) -> str:
    """Write the folder as a whole and return a line about it; raises UserError when onnxruntime says something else."""
    graph = Graph(Policy(inputs.policy.checkpoint, "cpu")).eval()
    with new_folder(folder, manifest=False) as temporary:
        _write_graph(graph, temporary / ONNX)
        verified = _verify(inputs, graph, temporary / ONNX, batch_size)
        difference = max(verified["largest_difference"], verified["largest_difference_normalized"])
        if not difference <= TOLERANCE:
            raise UserError(
                f"--export {folder}: onnxruntime's actions differ by {difference:.2g} from the policy's (at most "
                f"{TOLERANCE:g} is allowed); nothing is kept"
            )
        about = _about(inputs, graph) | {"verified": verified}
        write_json(temporary / ABOUT, about)
        words = USE.format(chunk_size=about["chunk_size"], apply=about["apply"].capitalize() + ".")
        (temporary / README).write_text(words)
    return f"exported to {folder / ONNX}: onnxruntime agrees on {verified['frames']} frames to {difference:.1e}"


def _write_graph(graph: Graph, path: Path) -> None:
    policy = graph._policy
    example = [
        torch.zeros(2, *of["shape"], dtype=getattr(torch, of["dtype"])) for of in _inputs(policy, graph.keys).values()
    ]
    batch = torch.export.Dim("batch")
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        torch.onnx.export(
            graph,
            tuple(example),
            path,
            input_names=graph.keys,
            output_names=[ACTION],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            dynamic_shapes=(tuple({0: batch} for _ in example),),
            verbose=False,
        )


def _verify(inputs: Inputs, graph: Graph, path: Path, batch_size: int) -> dict[str, Any]:
    onnxruntime = importlib.import_module("onnxruntime")  # of the extra: it may be missing
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    policy, frames = graph._policy, 0
    worst = np.zeros(2)  # in robot units, normalized
    renamed = policy.checkpoint.rename_map
    vectors = [key for key in graph.keys if key in (STATE, ENVIRONMENT)]
    for episode in inputs.episodes:
        rows = read_rows(inputs.dataset, episode, [*vectors, ACTION])
        chosen = spread(episode.length, VERIFIED)
        batches = observations(policy, inputs.dataset, episode, rows, batch_size)
        for start, batch in zip(range(0, episode.length, batch_size), batches, strict=True):
            due = chosen[(chosen >= start) & (chosen < start + batch_size)] - start
            if not len(due):
                continue
            some: Batch = {key: value[due] for key, value in batch.items()}
            feed = {renamed.get(key, key): value for key, value in some.items()}
            (theirs,) = session.run([ACTION], feed)
            ours, theirs = policy.predict_chunk(some), torch.from_numpy(theirs)
            apart = [theirs - ours, policy.normalizer.apply(ACTION, theirs) - policy.normalizer.apply(ACTION, ours)]
            frames, worst = frames + len(due), np.maximum(worst, [float(of.abs().max()) for of in apart])
    return {"frames": frames, "largest_difference": worst[0], "largest_difference_normalized": worst[1]}


def _about(inputs: Inputs, graph: Graph) -> dict[str, Any]:
    policy, dataset = inputs.policy, inputs.dataset
    shape = policy.checkpoint.shape
    return {
        "format": FORMAT,
        "inputs": _inputs(policy, graph.keys),
        "output": {ACTION: {"dtype": "float32", "shape": [policy.chunk_size, shape.action_dim]}},
        "joint_names": list(dataset.joint_names),
        "fps": dataset.fps,
        "action_meaning": inputs.action_meaning,
        "apply": APPLY[inputs.action_meaning],
        "cameras": {camera: list(size) for camera, size in policy.cameras.items()},
        "chunk_size": policy.chunk_size,
        "n_action_steps": policy.n_action_steps,
        "temporal_ensemble_coeff": policy.temporal_ensemble_coeff,
        "checkpoint_sha256": inputs.checkpoint_sha256,
    }


def _inputs(policy: Policy, keys: list[str]) -> dict[str, dict[str, Any]]:
    """Return key -> dtype and shape without the batch, in the graph's order."""
    shape = policy.checkpoint.shape
    vectors = {STATE: [shape.state_dim], ENVIRONMENT: [shape.environment_dim]}
    images = {image_key(camera): list(size) for camera, size in policy.cameras.items()}
    return {
        key: {"dtype": "float32", "shape": vectors[key]} if key in vectors else {"dtype": "uint8", "shape": images[key]}
        for key in keys
    }
