"""The exported policy gives the same actions in onnxruntime as the policy, or is not kept."""

import importlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.act.checkpoint import PolicyShape, new_network
from common.act.normalization import Normalizer
from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.policy import Policy
from stage3_eval import export as exporting
from stage3_eval.export import export, require_exportable
from stage3_eval.inputs import Inputs, open_inputs
from tests.browser import require
from tests.conftest import GOLDEN, ROOT
from tests.stage3_eval.conftest import CONFIG, MAPPING, tiny_checkpoint

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    found = all(importlib.util.find_spec(name) for name in exporting.PACKAGES)
    require(found, "the extra onnx (pip install 'bag2act[onnx]')")


@pytest.fixture(scope="module")
def inputs(checkpoint: Path) -> Inputs:
    return open_inputs(checkpoint, GOLDEN / "dataset_image", ["all"], "cpu")


@pytest.fixture(scope="module")
def exported(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "onnx"
    require_exportable(folder)
    assert "agrees on 42 frames" in export(inputs, folder, batch_size=8)
    return folder


@pytest.mark.parametrize("batch", [1, 3])
def test_onnxruntime_agrees_with_the_policy_for_any_batch_size(batch: int, exported: Path, inputs: Inputs) -> None:
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(exported / "policy.onnx"), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(batch)
    observation: dict[str, Any] = {
        "observation.state": rng.normal(size=(batch, 6)).astype(np.float32),
        "observation.images.color": rng.integers(0, 256, (batch, 64, 96, 3), dtype=np.uint8),
    }
    (chunk,) = session.run(["action"], observation)
    assert chunk.shape == (batch, 10, 6)
    np.testing.assert_allclose(chunk, inputs.policy.predict_chunk(observation).numpy(), atol=1e-5)


def test_policy_json_describes_the_policy_to_a_driver(exported: Path, inputs: Inputs) -> None:
    assert sorted(path.name for path in exported.iterdir()) == ["policy.json", "policy.onnx"]
    about = json.loads((exported / "policy.json").read_text())
    assert about["joint_names"] == list(inputs.dataset.joint_names)
    assert (about["fps"], about["action_meaning"], about["chunk_size"]) == (30, "delta", 10)
    assert about["cameras"] == {"color": [64, 96, 3]}
    assert about["inputs"]["observation.images.color"] == {"dtype": "uint8", "shape": [64, 96, 3]}
    assert about["verified"]["frames"] == 42
    assert 0 <= about["verified"]["largest_difference_normalized"] < 1e-5


def test_the_lines_of_the_documentation_run_as_written(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(exported)
    names: dict[str, np.ndarray] = {}
    exec(lines, names)
    assert names["chunk"].shape == (1, 10, 6)


@pytest.mark.slow
def test_a_policy_with_two_cameras_and_an_environment_is_exported(inputs: Inputs, tmp_path: Path) -> None:
    dataset = Dataset.open(GOLDEN / "dataset_image")
    base = tiny_checkpoint(dataset)
    shape = PolicyShape(6, 6, {"color": (64, 96, 3), "wrist": (64, 96, 3)}, environment_dim=2)
    statistics = base.normalizer.statistics()
    for name in ("mean", "std"):
        statistics[f"observation.images.wrist.{name}"] = statistics[f"observation.images.color.{name}"]
        statistics[f"observation.environment_state.{name}"] = torch.ones(2)
    normalizer = Normalizer(statistics, MAPPING | {"ENV": "MEAN_STD"}, shape.sizes(), "test")
    policy = Policy(replace(base, network=new_network(CONFIG, shape), shape=shape, normalizer=normalizer))
    graph = exporting.Graph(policy).eval()
    exporting._write_graph(graph, tmp_path / "policy.onnx")
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch in (1, 3):
        observation: dict[str, Any] = {
            "observation.state": rng.normal(size=(batch, 6)).astype(np.float32),
            "observation.environment_state": rng.normal(size=(batch, 2)).astype(np.float32),
            "observation.images.color": rng.integers(0, 256, (batch, 64, 96, 3), dtype=np.uint8),
            "observation.images.wrist": rng.integers(0, 256, (batch, 64, 96, 3), dtype=np.uint8),
        }
        (chunk,) = session.run(["action"], observation)
        np.testing.assert_allclose(chunk, policy.predict_chunk(observation).numpy(), atol=1e-5)


def test_a_graph_that_disagrees_with_the_policy_is_not_kept(
    inputs: Inputs, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_another(graph: exporting.Graph, path: Path) -> None:
        shutil.copy(exported / "policy.onnx", path)

    monkeypatch.setattr(exporting, "_write_graph", write_another)
    other = inputs._replace(policy=inputs.policy.with_random_weights(7))
    with pytest.raises(UserError, match=r"actions differ by .* nothing is kept"):
        export(other, tmp_path / "onnx", batch_size=8)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_else_is_refused(exported: Path, tmp_path: Path) -> None:
    require_exportable(exported)  # an earlier export may be replaced
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(UserError, match=r"holds notes\.txt, which does not belong to an earlier export"):
        require_exportable(tmp_path)


def test_missing_packages_are_named_with_the_way_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PACKAGES", ("onnx", "a_package_that_is_not_there"))
    with pytest.raises(UserError, match=r"pip install 'bag2act\[onnx\]'"):
        require_exportable(tmp_path / "onnx")


def test_without_a_meaning_of_actions_the_export_says_how_to_add_it(inputs: Inputs) -> None:
    verified = exporting.Verification(frames=1, largest_difference=0.0, largest_difference_normalized=0.0)
    graph = exporting.Graph(inputs.policy)
    info = exporting._describe(inputs._replace(action_meaning=None), graph, verified)
    assert info.action_meaning is None
    assert "export again with --action-meaning" in info.apply
