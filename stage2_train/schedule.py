"""A step of the training in, the factor on every learning rate out."""

import math
from typing import Literal


def learning_rate_factor(
    step: int, steps: int, warmup_steps: int, floor: float, scheduler: Literal["none", "cosine"]
) -> float:
    """Return what every group's base learning rate is multiplied by at `step` (0 is the first optimizer step).

    "none" is 1 throughout, without a warm-up. "cosine" climbs in a line from 1/warmup_steps at step 0, so that no
    step is wasted on a rate of zero, to 1 at step warmup_steps - 1, then falls along half a cosine to `floor`, in 0..1,
    at step steps - 1 and stays there. A training no longer than its warm-up only climbs.
    """
    if scheduler == "none":
        return 1.0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    peak = max(warmup_steps - 1, 0)
    progress = min((step - peak) / max(steps - 1 - peak, 1), 1.0)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
