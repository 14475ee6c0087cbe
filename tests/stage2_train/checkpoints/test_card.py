"""The card of a policy says what the policy is, and the hub's own code reads it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from stage2_train.train import train
from tests.stage2_train.tiny import VALIDATED, tiny_config, write_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    train(tiny_config(write_dataset(folder / "dataset"), folder / "out", *VALIDATED))
    return folder / "out"


def card_of(run: Path, name: str) -> ModelCard:
    return ModelCard((run / name / "pretrained_model" / "README.md").read_text())


def metadata(run: Path, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(str(card_of(run, name).data)))


def test_the_hub_reads_what_the_policy_is_and_a_person_what_it_was_trained_on(run: Path) -> None:
    tags = {"tags": ["act", "lerobot", "robotics"], "model_name": "act"}
    assert metadata(run, "checkpoint_000008") == {"library_name": "lerobot", "pipeline_tag": "robotics", **tags}
    record = json.loads((run / "checkpoint_000008" / "pretrained_model" / "train_config.json").read_text())
    text = card_of(run, "checkpoint_000008").text
    assert f"| fingerprint | `{record['dataset']['fingerprint']}` |" in text
    assert "3 episodes, 31 frames; 1 held out" in text
    step = json.loads((run / "best" / "best.json").read_text())["step"]
    assert f"ACT policy after {step} steps" in card_of(run, "best").text


def test_losses_are_the_newest_of_the_metrics_up_to_its_step(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    text = card_of(run, "checkpoint_000008").text
    assert "| steps | 8 of 12, 4 samples each on every process |" in text
    for name, word, step in (("loss", "training loss", 8), ("val_loss", "held-out loss", 5)):
        value = next(row[name] for row in rows if row["step"] == step and name in row)
        line = next(line for line in text.splitlines() if line.startswith(f"| {word} "))
        assert line.endswith(f"at step {step} |")
        assert float(line.split("|")[2].split()[0]) == pytest.approx(value, rel=1e-2)


def test_a_person_may_fill_in_its_blanks(run: Path) -> None:
    path = run / "checkpoint_000012" / "pretrained_model" / "README.md"
    path.write_text(path.read_text().replace("# license: fill this in before you publish", "license: mit"))
    assert metadata(run, "checkpoint_000012")["license"] == "mit"
    train(tiny_config(run.parent / "dataset", run, *VALIDATED))  # finds the checkpoint complete, and does nothing
    assert metadata(run, "checkpoint_000012")["license"] == "mit"
