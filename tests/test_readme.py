"""The README is true: its commands run, its configuration reference is the code's, its make targets exist."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.cli.config import reference
from stage1_convert.config import Config as ConvertConfig
from stage2_train.config import TrainConfig
from tests.conftest import ROOT

README = ROOT / "README.md"
REFERENCE = re.compile(r"(<!-- reference: [^\n]*-->\n).*?(<!-- end of reference -->)", re.DOTALL)


REFERENCES = {ROOT / "stage1_convert" / "README.md": ConvertConfig, ROOT / "stage2_train" / "README.md": TrainConfig}


def with_reference(text: str, cls: type[Any]) -> str:
    """The text of a README with the configuration table as the code has it."""
    return REFERENCE.sub(lambda match: f"{match[1]}{reference(cls)}\n{match[2]}", text)


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    return str(found)


@pytest.mark.parametrize("readme", REFERENCES, ids=lambda path: path.parent.name)
def test_the_configuration_reference_is_the_codes(readme: Path) -> None:
    text = readme.read_text()
    assert REFERENCE.search(text)
    assert text == with_reference(text, REFERENCES[readme]), "run python -m tests.test_readme"


def test_the_make_targets_exist() -> None:
    for line in block("sh").splitlines():
        target = line.split()[1]
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_yaml_for_another_arm_is_a_valid_configuration(tmp_path: Path) -> None:
    from common.cli.config import load

    (tmp_path / "arm.yaml").write_text(block("yaml"))
    config = load(ConvertConfig, tmp_path / "arm.yaml")
    assert len(config.conventions.joint_order) == 7


@pytest.fixture(scope="module")
def taste(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's commands have been run, word for word, and its Python after them."""
    folder = tmp_path_factory.mktemp("taste")
    (folder / "demo").symlink_to(ROOT / "demo")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    script = "set -e\n" + block("bash")
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_three_commands_run_as_written(taste: Path) -> None:
    for made in (
        "look/proposed.yaml",
        "lerobot/meta/info.json",
        "train/curves.png",
        "eval/report.html",
        "rollout/rollout.png",
    ):
        assert (taste / made).is_file()


def test_the_drivers_lines_run_as_written(taste: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.chdir(taste)
    names: dict[str, Any] = {"state": np.zeros((1, 6)), "image": np.zeros((1, 64, 96, 3), np.uint8)}
    exec(block("python"), names)
    action = names["action"]
    assert tuple(action.shape) == (1, 6)


if __name__ == "__main__":
    for path, config in REFERENCES.items():
        path.write_text(with_reference(path.read_text(), config))
