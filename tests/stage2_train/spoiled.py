"""The training's command with one thing gone wrong: the second process gathers an infinite action for its fourth step."""

import os
from functools import wraps
from typing import Any

import torch

from common.cli.command import run
from stage2_train.__main__ import main
from stage2_train.batches import Batch, Samples

RANK, STEP = 1, 3
sound = Samples.batch


@wraps(sound)
def batch(self: Samples, *args: Any, **kwargs: Any) -> Batch:
    """Gather a batch, and spoil it."""
    gathered = sound(self, *args, **kwargs)
    if args[1] == STEP and int(os.environ["RANK"]) == RANK:
        gathered.action_BCA[0, 0, 0] = torch.inf
    return gathered


if __name__ == "__main__":
    Samples.batch = batch  # type: ignore[method-assign]
    run(main)
