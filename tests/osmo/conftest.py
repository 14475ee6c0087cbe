"""What the tests of the workflows share: a few recorded bags, and overrides that make a training tiny."""

from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY_TRAINING, run_module

OSMO = ROOT / "osmo"
WORKFLOWS = sorted(path for path in OSMO.glob("*.yaml") if "\nworkflow:" in path.read_text())
BAGS_URL = "azure://stosmorbt3dev001/datasets/houston_recordings"
TINY = " ".join([*(text for text in TINY_TRAINING if "steps" not in text), "data.val_fraction=0.5"])


@pytest.fixture(scope="session")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bags of the simulated cell."""
    out = tmp_path_factory.mktemp("bags") / "bags"
    done = run_module("demo.record", "--out", out, "--episodes", 2)
    assert done.returncode == 0, done.stderr
    return out
