"""The wheel holds everything that a page is made of: installed elsewhere, each command writes its page."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from common.lerobot.dataset import Dataset
from tests.conftest import GOLDEN, ROOT
from tests.stage1_convert.recording import cell
from tests.stage3_eval.conftest import tiny_checkpoint

pytestmark = pytest.mark.integration
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def run(*command: object, **environment: str) -> str:
    words = [str(word) for word in command]
    environment = {**os.environ, **environment}
    done = subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel, which was built from a copy so that nothing is left in the source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source, packages = folder / "source", tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for pattern in packages["packages"]["find"]["include"]:
        for package in ROOT.glob(pattern):
            if (package / "__init__.py").is_file():
                shutil.copytree(package, source / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    run(*PIP, "install", "--no-deps", "--target", folder / "site", wheel)
    return folder / "site"


COMMANDS = """
import json, pathlib, sys
import common
from stage1_convert.__main__ import main as convert
from stage3_eval.__main__ import main as evaluate

assert pathlib.Path(common.__file__).is_relative_to(sys.argv[1]), common.__file__
for command, flags in json.loads(sys.argv[2]):
    assert {"convert": convert, "evaluate": evaluate}[command](flags) == 0
"""


def test_every_page_is_written_by_the_installed_product(installed: Path, tmp_path: Path) -> None:
    cell().write(tmp_path / "bags" / "bag")
    checkpoint = tmp_path / "run" / "pretrained_model"
    checkpoint.mkdir(parents=True)
    golden = GOLDEN / "dataset_image"
    tiny_checkpoint(Dataset.open(golden)).write(checkpoint)
    flags = ("--checkpoint", checkpoint, "--dataset", golden, "--latency-steps", 0, "--device", "cpu")
    commands = [
        ("convert", ["--src", tmp_path / "bags", "--out", tmp_path / "dataset"]),
        ("evaluate", [*flags, "--out", tmp_path / "a", "--episodes", 0]),
        ("evaluate", [*flags, "--out", tmp_path / "b", "--episodes", 1]),
        ("evaluate", ["--compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c"]),
    ]
    words = json.dumps([(command, [str(flag) for flag in flags]) for command, flags in commands])
    variables = {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    run(sys.executable, "-c", COMMANDS, installed, words, **variables)
    for page, heading in (
        ("dataset/meta/conversion.html", "1 episode from 1 bag"),
        ("a/report.html", f"{tmp_path.name}/run"),
        ("c/comparison.html", "2 evaluations compared"),
    ):
        text = (tmp_path / page).read_text()
        assert f"<h1>{heading}</h1>" in text
        assert "prefers-color-scheme: dark" in text
