"""The card of a policy, README.md of a `pretrained_model/`: what it was trained on, how well, and how to run it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.act.checkpoint import Checkpoint
from common.report import render
from common.report.card import ACTIONS, CARD, front_matter
from common.storage.files import write_file

LOSSES = {"loss": "training loss", "l1_loss": "its L1 part", "val_loss": "held-out loss"}


def write_card(folder: Path, checkpoint: Checkpoint, step: int, metrics: Path) -> None:
    """Write the card of `checkpoint`, as it is after `step` steps, into `folder`; `metrics` is the run's metrics.jsonl."""
    write_file(folder / CARD, draw_card(checkpoint, step, losses_until(metrics, step)).encode())


def draw_card(checkpoint: Checkpoint, step: int, losses: Mapping[str, tuple[int, float]]) -> str:
    """Return the card as Markdown with the hub's metadata; `losses` are step and value of each of LOSSES, if it is known."""
    record, robot, act = checkpoint.train_config, checkpoint.robot, checkpoint.act
    origin = checkpoint.settings.get("repo_id") if record["config"]["model"]["init_from"] else None
    metadata = {
        "license": checkpoint.settings.get("license"),
        "datasets": None,
        **({"base_model": origin} if origin else {}),
        "library_name": "lerobot",
        "pipeline_tag": "robotics",
        "model_name": "act",
        "tags": ["act", "lerobot", "robotics"],
    }
    return render(
        "stage2_train.checkpoints",
        "card.md.j2",
        front_matter=front_matter(metadata),
        step=step,
        losses={LOSSES[name]: losses[name] for name in LOSSES if name in losses},
        shape=checkpoint.shape,
        robot=robot,
        act=act,
        meaning=ACTIONS.get(robot.action_meaning or "", "not declared by the dataset"),
        dataset=record["dataset"],
        training=record["config"]["training"],
        model=record["config"]["model"],
        held_out=record["val_episodes"],
        versions=record["versions"],
    )


def losses_until(metrics: Path, step: int) -> dict[str, tuple[int, float]]:
    """Return the newest value of each of LOSSES up to `step`, with the step at which it was logged."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {name: (row["step"], row[name]) for row in rows if row["step"] <= step for name in LOSSES if name in row}
