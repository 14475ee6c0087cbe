"""The training's command, which also notes what its process draws for every batch: rows, VAE noise, dropout.

The notes lie beside the output folder, a JSON line a batch, and begin anew with every start.
"""

import json
import os
from functools import wraps
from pathlib import Path
from typing import Any

from torch import Tensor

from common.act import network as act
from common.cli.command import run
from stage2_train.__main__ import main
from stage2_train.batches import Batch
from stage2_train.loss import Loss
from stage2_train.loss_module import LossModule

Note = dict[str, Any]
sound_drop, sound_loss = act.drop, LossModule.loss
masks: list[Tensor] = []


def notes(out: Path, rank: int = 0) -> list[Note]:
    """Return what a process of the last start with this output folder noted."""
    return [json.loads(line) for line in path_of(out, rank).read_text().splitlines()]


def path_of(out: Path, rank: int) -> Path:
    """Where it is noted."""
    return out.with_name(f"{out.name}.{rank}.notes")


def drop(x: Tensor, dropout: float) -> Tensor:
    """Drop, and keep in mind what was dropped of the first tokens (B, T, D): none of them is zero before."""
    dropped = sound_drop(x, dropout)
    if x.ndim == 3 and x.shape[1] > 1 and not masks:
        masks.append(dropped == 0)
    return dropped


@wraps(sound_loss)
def loss(self: LossModule, batch: Batch, shares: int) -> Loss:
    """Compute the loss, and note what was drawn for it."""
    masks.clear()
    found = sound_loss(self, batch, shares)
    mask = "".join("01"[dropped] for dropped in masks[0].flatten().tolist())
    note = {"rows": batch.rows.tolist(), "noise": batch.noise_BL.tolist(), "mask": mask}
    with path_of(Path(self._training.output_dir), int(os.environ["RANK"])).open("a") as file:
        print(json.dumps(note), file=file)
    return found


def noting() -> int:
    """Train."""
    act.drop, LossModule.loss = drop, loss  # type: ignore[method-assign]
    return main()


if __name__ == "__main__":
    run(lambda _: noting())
