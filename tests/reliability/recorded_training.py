"""The training command, but each process records what it draws for every batch: rows, VAE noise and dropout mask.

The record lies beside the output folder, one JSON line per batch, and starts again with every start of the command.
"""

import json
import os
from functools import wraps
from pathlib import Path
from typing import Any

from torch import Tensor

from common.act import transformer as act
from common.cli.command import run
from stage2_train.__main__ import main
from stage2_train.batches import Batch
from stage2_train.loss import Loss, LossModule

Draws = dict[str, Any]
original_drop, original_loss = act.drop, LossModule.loss
masks: list[Tensor] = []


def read_draws(out: Path, rank: int = 0) -> list[Draws]:
    """Return what a process recorded in its last start with this output folder."""
    return [json.loads(line) for line in record_path(out, rank).read_text().splitlines()]


def record_path(out: Path, rank: int) -> Path:
    """Return the file that a rank records to."""
    return out.with_name(f"{out.name}.{rank}.draws")


def drop(x: Tensor, dropout: float) -> Tensor:
    """Drop, and keep the mask of the first tokens (B, T, D) of a batch, none of which is zero before."""
    dropped = original_drop(x, dropout)
    if x.ndim == 3 and x.shape[1] > 1 and not masks:
        masks.append(dropped == 0)
    return dropped


@wraps(original_loss)
def loss(self: LossModule, batch: Batch, parts: int) -> Loss:
    """Compute the loss, and record what was drawn for it."""
    masks.clear()
    result = original_loss(self, batch, parts)
    mask = "".join("01"[dropped] for dropped in masks[0].flatten().tolist())
    draws = {"rows": batch.rows.tolist(), "noise": batch.noise_BL.tolist(), "mask": mask}
    with record_path(Path(self._config.training.output_dir), int(os.environ["RANK"])).open("a") as file:
        print(json.dumps(draws), file=file)
    return result


def recorded_main() -> int:
    """Train."""
    act.drop, LossModule.loss = drop, loss  # type: ignore[method-assign]
    return main()


if __name__ == "__main__":
    run(lambda _: recorded_main())
