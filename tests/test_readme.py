"""The commands of the README run, its configuration reference is that of the code, its make targets exist."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from common.cli.validation import show
from stage1_convert.config import Config as ConvertConfig
from stage2_train.config import TrainConfig
from tests.conftest import ROOT

README = ROOT / "README.md"
REFERENCE = re.compile(r"(<!-- reference: [^\n]*-->\n).*?(<!-- end of reference -->)", re.DOTALL)
REFERENCES = {ROOT / "docs" / "conversion.md": ConvertConfig, ROOT / "docs" / "training.md": TrainConfig}


def with_reference(text: str, cls: type[Any]) -> str:
    """The text of a README with the configuration table generated from the code."""
    table = "\n".join(["| key | default | meaning |", "|---|---|---|", *setting_rows(cls)])
    return REFERENCE.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text)


def setting_rows(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """A Markdown row for every setting, in the order they are declared."""
    for name, field in cls.model_fields.items():
        key = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from setting_rows(field.annotation, f"{key}.")
        else:
            assert field.description, key
            yield f"| `{key}` | `{show(field.get_default(call_default_factory=True))}` | {field.description} |"


def block(language: str, page: Path = README) -> str:
    return "".join(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL))


@pytest.mark.parametrize("readme", REFERENCES, ids=lambda path: path.stem)
def test_the_configuration_reference_is_that_of_the_code(readme: Path) -> None:
    text = readme.read_text()
    assert REFERENCE.search(text)
    assert text == with_reference(text, REFERENCES[readme]), "run python -m tests.test_readme"


def test_what_was_measured_is_what_the_pages_say() -> None:
    rows = README.read_text().split("## Measured")[1].split("## ")[0].splitlines()
    linked = [(row, *match.groups()) for row in rows if (match := re.search(r"\((docs/[\w-]+\.md)#([\w-]+)\)", row))]
    assert len(linked) >= 4
    for row, page, anchor in linked:
        section = (ROOT / page).read_text().split(f"\n## {anchor.capitalize()}\n")[1].split("\n## ")[0]
        for number in re.findall(r"\d+\.\d+", row.split(" | ")[1]):
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", section), (
                f"{page} does not say {number}: {row}"
            )


def test_the_make_targets_exist() -> None:
    targets = re.findall(r"^make ([\w-]+)", block("sh"), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_yaml_for_another_arm_is_a_valid_configuration(tmp_path: Path) -> None:
    from common.cli.config import load

    (tmp_path / "arm.yaml").write_text(block("yaml", ROOT / "docs" / "own-robot.md"))
    config = load(ConvertConfig, tmp_path / "arm.yaml")
    assert len(config.conventions.joint_order) == 7


@pytest.mark.slow
def test_the_three_commands_run_as_written(readme_results: Path) -> None:
    for name in (
        "look/proposed.yaml",
        "lerobot/meta/info.json",
        "train/curves.png",
        "eval/report.html",
        "rollout/rollout.png",
    ):
        assert (readme_results / name).is_file()


@pytest.mark.slow
def test_the_lines_for_a_driver_run_as_written(readme_results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.chdir(readme_results)
    names: dict[str, Any] = {"state": np.zeros((1, 6)), "image": np.zeros((1, 64, 96, 3), np.uint8)}
    exec(block("python"), names)
    action = names["action"]
    assert tuple(action.shape) == (1, 6)


if __name__ == "__main__":
    for path, config in REFERENCES.items():
        path.write_text(with_reference(path.read_text(), config))
