"""One episode's recorded and predicted arrays in, an image of its curves out.

Letters in array names: T frames of the episode, C chunk steps, A action dimensions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
RECORDED, PREDICTED = "#222222", "#d9480f"


def chunk_positions(state_A: Floats, chunk_CA: Floats, action_meaning: str) -> Floats:
    """Return the positions (C+1, A) that a robot at `state_A` passes through when it executes the whole chunk."""
    following_CA = state_A + np.cumsum(chunk_CA, axis=0) if action_meaning == "delta" else chunk_CA
    return np.concatenate([state_A[None], following_CA])


def draw_curves(
    path: Path,
    recorded_TA: Floats,
    position_TA: Floats | None,
    executed_TA: Floats,
    fans: Sequence[tuple[int, Floats]],
    episode: int,
    facts: Mapping[str, Any],
) -> None:
    """Write a PNG, a row per joint: where whole predicted chunks would lead, beside executed and recorded actions.

    `fans` holds chunks (C, A) with the frame each was predicted at. The left column needs one measured position per action;
    without them it is left out.
    """
    from matplotlib.figure import Figure

    joints, fps, meaning = facts["joint_names"], facts["fps"], facts["action_meaning"]
    columns = 1 if position_TA is None else 2
    figure = Figure(figsize=(9 if columns == 1 else 15, 1.2 + 1.9 * len(joints)), layout="constrained")
    axes = figure.subplots(len(joints), columns, sharex=True, squeeze=False)
    seconds_T = np.arange(len(recorded_TA)) / fps
    for joint, name in enumerate(joints):
        right = axes[joint, -1]
        right.plot(seconds_T, recorded_TA[:, joint], color=RECORDED, lw=1.6, label="recorded")
        right.plot(seconds_T, executed_TA[:, joint], color=PREDICTED, lw=1.1, label="predicted")
        right.set_title(f"{name}: action", fontsize=10)
        if position_TA is not None:
            left = axes[joint, 0]
            left.plot(seconds_T, position_TA[:, joint], color=RECORDED, lw=1.6, label="recorded")
            left.set_title(f"{name}: position", fontsize=10)
            left.set_ylabel(facts["units"])
    if position_TA is not None:
        _draw_fans(axes[:, 0], position_TA, fans, fps, meaning)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("time in s")
    for axis in axes[0]:
        axis.legend(loc="best", fontsize=8)
    axes[0, -1].set_ylabel(facts["units"])
    figure.suptitle(f"episode {episode}: recorded and predicted actions ({meaning})", fontsize=11)
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def _draw_fans(
    column: Any, position_TA: Floats, fans: Sequence[tuple[int, Floats]], fps: int, action_meaning: str
) -> None:
    last = len(position_TA) - 1  # nothing was recorded beyond the end
    for start, chunk_CA in fans:
        if start >= last:
            continue
        path = chunk_positions(position_TA[start], chunk_CA, action_meaning)[: last - start + 1]
        label = "predicted chunks, executed open loop" if start == 0 else None
        for joint, axis in enumerate(column):
            seconds = start / fps + np.arange(len(path)) / fps
            axis.plot(seconds, path[:, joint], color=PREDICTED, lw=1.0, alpha=0.8, label=label)
            axis.plot(seconds[0], path[0, joint], ".", color=PREDICTED, ms=5)
