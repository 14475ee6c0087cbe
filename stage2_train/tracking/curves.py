"""The loss and learning-rate curves of metrics.jsonl as a PNG image."""

from pathlib import Path

from common.storage.files import atomic_path
from stage2_train.tracking.averages import Metrics

LOSS_LABELS = {
    "loss": "loss",
    "l1_loss": "L1 part",
    "kl_loss": "KL part (unweighted)",
    "val_loss": "L1 of held-out episodes",
}


def draw_curves(rows: list[Metrics], path: Path) -> None:
    """Draw losses and learning rate over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for axes, labels in ((losses, LOSS_LABELS), (rates, {"lr": "learning rate"})):
        for key, label in labels.items():
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=label)
        axes.grid(alpha=0.3)
    losses.set_yscale("log")
    losses.set_ylabel("normalized units")
    losses.legend()
    rates.set_ylabel("learning rate")
    rates.set_xlabel("step")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
