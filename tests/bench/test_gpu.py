"""The GPU bench runs with few packages, measures the product's defaults, and loses nothing when a figure fails."""

import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from bench import gpu
from bench.figures import Figure, measure_all
from common.act.checkpoint import Checkpoint, PolicyShape
from common.act.config import ActConfig
from common.act.records import Robot
from common.lerobot.metadata import STATE
from common.policy import Policy
from stage2_train.config import TrainingConfig
from tests.conftest import ROOT

ALLOWED = {"torch", "torchgen", "functorch", "numpy", "pyarrow", "cv2", "safetensors", "yaml", "_yaml"}
REQUIRED_BY_TORCH = {"typing_extensions", "filelock", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec"}
REQUIRED_BY_TORCH |= {"setuptools", "_distutils_hack", "pkg_resources"}
OURS = {"bench", "common", "stage2_train"}
WITHOUT_OTHERS = """
import runpy, sys
from importlib.machinery import PathFinder
class Installed:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else PathFinder.find_spec(name, path, target)
sys.meta_path = [Installed() if finder is PathFinder else finder for finder in sys.meta_path]
runpy.run_module("bench.gpu", run_name="__main__")
"""


def run_with_few_packages(*flags: str) -> str:
    blocked = importlib.metadata.packages_distributions().keys() - ALLOWED - REQUIRED_BY_TORCH - OURS
    assert {"pydantic", "tqdm", "datasets", "rosbags", "av", "matplotlib"} <= blocked
    command = [sys.executable, "-c", f"BLOCKED = {sorted(blocked)}{WITHOUT_OTHERS}", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_imports_few_packages() -> None:
    assert "--quick" in run_with_few_packages("--help")


@pytest.mark.slow
def test_a_quick_run_prints_every_figure() -> None:
    printed = run_with_few_packages("--device", "cpu", "--quick").splitlines()
    about, *lines = [json.loads(line) for line in printed if line.startswith("{")]
    assert about["device"] == "CPU"
    assert about["quick"] is True
    assert not [line for line in lines if "failed" in line]
    measured = {line["figure"]: line for line in lines if "left_out" not in line}
    assert [name for name, line in measured.items() if "step_ms" in line] == [
        "plain step, fp32",
        "plain step, bf16",
        "step, fp32",
        "step, bf16",
        "step, bf16, fed by the loader",
    ]
    assert 0 <= measured["step, bf16, fed by the loader"]["device_waits"] <= 1
    assert measured["prediction"]["difference"] < 1e-4  # both networks compute the same function
    assert printed[-1].startswith("| step, bf16, compiled, CUDA graphs |")


def test_it_measures_the_defaults_of_the_product() -> None:
    assert gpu.NETWORK.items() <= dict(ActConfig()).items()
    assert gpu.TRAINING.items() <= dict(TrainingConfig()).items()
    assert TrainingConfig().num_workers == gpu.NUM_WORKERS


@pytest.fixture
def bench(tmp_path: Path) -> gpu.Bench:
    return gpu.Bench(torch.device("cpu"), True, tmp_path)


def test_its_prediction_is_that_of_a_policy(bench: gpu.Bench) -> None:
    shape = PolicyShape(gpu.JOINTS, gpu.JOINTS, {"camera": bench.store.mapped.shape})
    act = ActConfig(**vars(bench.network))
    policy = Policy(Checkpoint(bench.act(), act, shape, bench.normalizer, Robot()))
    state, image = torch.rand(1, gpu.JOINTS).numpy(), bench.batch(1).images[0].numpy()
    expected = policy.predict_chunk({STATE: state, gpu.CAMERA: image})
    torch.testing.assert_close(gpu.predict(bench, bench.act().freeze(), state, image), expected)


def test_a_figure_that_fails_or_takes_too_long_does_not_cost_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> NoReturn:
        raise RuntimeError("CUDA error")

    def hang() -> NoReturn:
        while True:
            try:
                time.sleep(60)
            except Exception:
                continue

    figures = [
        Figure("plain step", 8, lambda: {"step_ms": 30.0}),
        Figure("fails", 8, fail),
        Figure("step", 8, lambda: {"step_ms": 10.0}),
        Figure("hangs", 8, hang),
        Figure("too late", 8, fail),
    ]
    torch.compiler.reset()  # imports what takes longer than these figures
    results = measure_all(figures, 10)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == results
    assert results[1]["failed"] == "RuntimeError: CUDA error"
    assert results[2]["plain_by_this"] == 3.0
    assert results[3]["left_out"] == "not done within 10 s"
    assert results[4]["left_out"] == "no time left"
