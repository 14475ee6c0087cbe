"""The training command, but the action chunk that rank 1 gathers for step 4 holds an infinite value."""

import os
from functools import wraps
from typing import Any

import torch

from common.cli.command import run
from stage2_train.__main__ import main
from stage2_train.batches import Batch, ChunkDataset

RANK, STEP = 1, 3
original = ChunkDataset.batch


@wraps(original)
def batch(self: ChunkDataset, *args: Any, **kwargs: Any) -> Batch:
    """Gather a batch and, on the one rank at the one step, overwrite a value."""
    gathered = original(self, *args, **kwargs)
    if args[1] == STEP and int(os.environ["RANK"]) == RANK:
        gathered.action_BCA[0, 0, 0] = torch.inf
    return gathered


if __name__ == "__main__":
    ChunkDataset.batch = batch  # type: ignore[method-assign]
    run(main)
