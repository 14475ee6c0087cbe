"""What the tests of the workflows share: where they are, and overrides that make a training tiny."""

from tests.conftest import ROOT, TINY_TRAINING

OSMO = ROOT / "osmo"
WORKFLOWS = sorted(path for path in OSMO.glob("*.yaml") if "\nworkflow:" in path.read_text())
BAGS_URL = "azure://stosmorbt3dev001/datasets/houston_recordings"
TINY = " ".join([*(text for text in TINY_TRAINING if "steps" not in text), "data.val_fraction=0.5"])
