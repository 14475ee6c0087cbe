"""The documentation describes every flag of the evaluation and every key of its summary, and no others."""

import json
import re
from pathlib import Path

from stage3_eval.__main__ import _parser
from stage3_eval.__main__ import main as evaluate
from tests.conftest import GOLDEN, ROOT

DOCS = ROOT / "docs"


def first_cells(page: str, head: str) -> list[str]:
    """Return every `name` in the first cells of the table with that head."""
    (table,) = re.findall(rf"\| {head} \|.*?\n((?:\|.*\n)+)", (DOCS / page).read_text())
    return [name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_every_flag_is_described_and_no_other() -> None:
    flags = [option for action in _parser()._actions for option in action.option_strings if option.startswith("--")]
    assert first_cells("evaluation.md", "flag") == [flag for flag in flags if flag != "--help"]


def test_every_key_of_the_summary_is_described_and_no_other(checkpoint: Path, tmp_path: Path) -> None:
    argv = ["--checkpoint", checkpoint, "--dataset", GOLDEN / "dataset_image", "--out", tmp_path / "out"]
    assert evaluate([str(word) for word in [*argv, "--episodes", 0, "--latency-steps", 0]]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert sorted(first_cells("formats.md", r"key \| what it holds")) == sorted(summary)


def test_the_screenshot_exists_and_is_small() -> None:
    assert 20_000 < (DOCS / "report.png").stat().st_size < 300_000
