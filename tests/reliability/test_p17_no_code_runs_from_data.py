"""No code runs from data: not from a configuration, a checkpoint or a dataset; and no call in the tree would allow it."""

import ast
import pickle
from collections.abc import Callable, Iterator
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
FORBIDDEN_IMPORTS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
SAFE_LOADERS = ("BaseLoader", "SafeLoader", "_TextLoader", "LOADER")  # LOADER is osmo.check.template's, a safe one


def findings(source: str) -> Iterator[str]:
    """Yield the imports and calls of a module that could run code from data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (f"imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS)
        if not isinstance(node, ast.Call):
            continue
        called, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if called in FORBIDDEN_CALLS:
            yield f"calls {called}"
        if called in ("torch.load", "torch.hub.load_state_dict_from_url") and keywords.get("weights_only") != "True":
            yield f"calls {called} without weights_only=True"
        if called in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
            yield f"calls {called} with allow_pickle"
        if called in ("yaml.load", "yaml.load_all") and not any(n in keywords.get("Loader", "") for n in SAFE_LOADERS):
            yield f"calls {called} without a safe loader"
        if called in ("yaml.unsafe_load", "yaml.full_load", "os.system") or keywords.get("shell") == "True":
            yield f"calls {called}"


@pytest.mark.parametrize("package", PRODUCT)
def test_no_call_in_the_tree_can_run_code_from_data(package: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {what}"
        for path in (ROOT / package).rglob("*.py")
        for what in findings(path.read_text())
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from dill import loads", "torch.load('x')", "eval(text)", "yaml.load(text, Loader=yaml.Loader)"],
)
def test_the_search_finds_every_kind_of_call(source: str) -> None:
    assert list(findings(source))


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, created: Path) -> None:
        self.created = created

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.created,)


def test_a_pickle_given_as_backbone_weights_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "made"
    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Trap(made)))
    with pytest.raises(UserError, match=r"weights\.pth"):
        load_backbone_weights(ResNet("resnet18"), str(tmp_path / "weights.pth"))
    torch.save({"trap": Trap(made)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"weights\.pth"):
        load_backbone_weights(ResNet("resnet18"), str(tmp_path / "weights.pth"))
    assert not made.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/object/apply:pathlib.Path.touch"])
def test_yaml_tags_stay_text(tag: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"data:\n  dataset: {tag} ['touch {tmp_path}/made']\n")
    with pytest.raises(UserError, match=r"data\.dataset"):
        configuration.load(TrainConfig, tmp_path / "c.yaml")
    assert not (tmp_path / "made").exists()


def test_a_pickle_in_place_of_a_checkpoints_weights_is_refused(act_tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pretrained_model"
    folder.mkdir()
    for path in act_tiny.iterdir():
        (folder / path.name).write_bytes(
            path.read_bytes() if path.suffix == ".json" else pickle.dumps(Trap(tmp_path / "made"))
        )
    with pytest.raises(UserError, match=r"safetensors is damaged"):
        Checkpoint.read(folder)
    assert not (tmp_path / "made").exists()


def test_a_pickle_in_place_of_a_datasets_metadata_is_refused(image_dataset: Path, tmp_path: Path) -> None:
    (image_dataset / "meta" / "info.json").write_bytes(pickle.dumps(Trap(tmp_path / "made")))
    with pytest.raises(UserError, match=r"info\.json"):
        Dataset.open(image_dataset)
    assert not (tmp_path / "made").exists()
