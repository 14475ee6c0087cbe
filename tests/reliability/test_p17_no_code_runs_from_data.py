"""No code runs from data: not from a configuration, a checkpoint or a dataset; and no call in the tree would allow it."""

import ast
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.act.checkpoint import Checkpoint
from common.act.resnet import ResNet, load_backbone_weights
from common.cli import config as configuration
from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from stage2_train.config import TrainConfig
from tests.conftest import ROOT

PRODUCT = ("common", "stage1_convert", "stage2_train", "stage3_eval", "osmo", "demo", "bench")
# exec, pickle and its like, marshal, eval, yaml without a safe loader, a shell: flake8-bandit's rules.
RULES = "S102,S301,S302,S307,S506,S602,S605"
# What these calls must say to run no code, and no rule of ruff's asks for.
SAFE = {"torch.load": "weights_only=True", "torch.hub.load_state_dict_from_url": "weights_only=True"}


def test_no_call_in_the_tree_can_run_code_from_data() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--select", RULES, *PRODUCT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    sources = [path.read_text() for package in PRODUCT for path in (ROOT / package).rglob("*.py")]
    calls = [
        ast.unparse(node) for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
    ]
    loads = [(call, words) for call in calls for name, words in SAFE.items() if call.startswith(f"{name}(")]
    assert len(loads) == len(SAFE), "the search finds none, or another has come: see that it is safe"
    assert all(words in call for call, words in loads)
    assert not [call for call in calls if "allow_pickle=True" in call or "yaml.full_load" in call]


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, created: Path) -> None:
        self.created = created

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.created,)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/object/apply:pathlib.Path.touch"])
def test_yaml_tags_stay_text(tag: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"data:\n  dataset: {tag} ['touch {tmp_path}/made']\n")
    with pytest.raises(UserError, match=r"data\.dataset"):
        configuration.load(TrainConfig, tmp_path / "c.yaml")
    assert not (tmp_path / "made").exists()


def test_a_pickle_in_place_of_any_file_is_refused(act_tiny: Path, image_dataset: Path, tmp_path: Path) -> None:
    made, weights = tmp_path / "made", tmp_path / "weights.pth"
    checkpoint = Path(shutil.copytree(act_tiny, tmp_path / "checkpoint"))
    reads: dict[Path, Callable[[], object]] = {
        weights: lambda: load_backbone_weights(ResNet("resnet18"), str(weights)),
        checkpoint / "model.safetensors": lambda: Checkpoint.read(checkpoint),
        image_dataset / "meta" / "info.json": lambda: Dataset.open(image_dataset),
    }
    for path, read in reads.items():
        path.write_bytes(pickle.dumps(Trap(made)))
        with pytest.raises(UserError, match=re.escape(path.name)):
            read()
    torch.save({"trap": Trap(made)}, weights)
    with pytest.raises(UserError, match=r"weights\.pth"):
        reads[weights]()
    assert not made.exists()
