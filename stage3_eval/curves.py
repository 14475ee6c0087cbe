"""One episode's recorded and predicted arrays in, a picture of its curves out.

Letters in array names: T frames of the episode, C chunk steps, A action dimensions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
RECORDED, PREDICTED = "#222222", "#d9480f"
FANS = 2  # predicted trajectories drawn per chunk length


def chunk_positions(state_A: Floats, chunk_CA: Floats, action_meaning: str) -> Floats:
    """Return the positions (C+1, A) that a robot at `state_A` passes through when it executes the whole chunk."""
    following_CA = state_A + np.cumsum(chunk_CA, axis=0) if action_meaning == "delta" else chunk_CA
    return np.concatenate([state_A[None], following_CA])


def draw_curves(
    path: Path,
    rows: Mapping[str, Floats],
    chunk_TCA: Floats,
    joints: Sequence[str],
    fps: int,
    facts: Mapping[str, Any],
) -> None:
    """Write a PNG, a row per joint: where whole predicted chunks would lead, beside first steps against the recording.

    The left column needs to know what an action means and one position per action; without them it is left out.
    """
    from matplotlib.figure import Figure

    state_TA, recorded_TA, meaning = rows["observation.state"], rows["action"], facts["action_meaning"]
    paths = meaning is not None and state_TA.shape == recorded_TA.shape
    n_joints = len(joints)
    figure = Figure(figsize=(15 if paths else 9, 1.2 + 1.9 * n_joints), layout="constrained")
    axes = figure.subplots(n_joints, 2 if paths else 1, sharex=True, squeeze=False)
    seconds_T = np.arange(len(recorded_TA)) / fps
    for joint, name in enumerate(joints):
        right = axes[joint, -1]
        right.plot(seconds_T, recorded_TA[:, joint], color=RECORDED, lw=1.6, label="recorded")
        right.plot(seconds_T, chunk_TCA[:, 0, joint], color=PREDICTED, lw=1.1, label="predicted, first step")
        right.set_title(f"{name}: action", fontsize=10)
        if paths:
            left = axes[joint, 0]
            left.plot(seconds_T, state_TA[:, joint], color=RECORDED, lw=1.6, label="recorded")
            left.set_title(f"{name}: position", fontsize=10)
            left.set_ylabel(facts["units"])
    if paths:
        _draw_fans(axes[:, 0], state_TA, chunk_TCA, fps, meaning)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("time in s")
    for axis in axes[0]:
        axis.legend(loc="best", fontsize=8)
    axes[0, -1].set_ylabel(facts["units"])
    episode, n_steps = rows["episode_index"][0], chunk_TCA.shape[1]
    figure.suptitle(
        f"episode {episode}: open-loop chunks of {n_steps} actions ({meaning or 'meaning unknown'})", fontsize=11
    )
    figure.savefig(path, dpi=100)


def _draw_fans(column: Any, state_TA: Floats, chunk_TCA: Floats, fps: int, action_meaning: str) -> None:
    n_frames, n_steps = chunk_TCA.shape[:2]
    for start in range(0, n_frames - 1, max(1, n_steps // FANS)):
        stop = min(start + n_steps, n_frames - 1)  # nothing was recorded beyond the end
        positions = chunk_positions(state_TA[start], chunk_TCA[start], action_meaning)[: stop - start + 1]
        label = "predicted chunks, executed open loop" if start == 0 else None
        for joint, axis in enumerate(column):
            seconds = np.arange(start, stop + 1) / fps
            axis.plot(seconds, positions[:, joint], color=PREDICTED, lw=1.0, alpha=0.8, label=label)
            axis.plot(seconds[0], positions[0, joint], ".", color=PREDICTED, ms=5)
