"""curves.png: recorded and predicted actions of one episode, drawn with matplotlib.

Letters in array names: T frames of the episode, C chunk steps, A action dimensions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stage3_eval.metrics.summary import Header

Floats = npt.NDArray[np.floating[Any]]
RECORDED, PREDICTED = "#222222", "#d9480f"


class EpisodeCurves(NamedTuple):
    """What is drawn of an episode; `fans` holds chunks (C, A) with the frame each was predicted at."""

    number: int
    recorded_TA: Floats
    executed_TA: Floats
    position_TA: Floats | None  # measured; without them, or a meaning of actions, there is no column of positions
    fans: Sequence[tuple[int, Floats]]


def chunk_positions(state_A: Floats, chunk_CA: Floats, action_meaning: str) -> Floats:
    """Return the positions (C+1, A) of a robot that starts at `state_A` (A,) and executes the chunk (C, A)."""
    following_CA = state_A + np.cumsum(chunk_CA, axis=0) if action_meaning == "delta" else chunk_CA
    return np.concatenate([state_A[None], following_CA])


def draw_curves(path: Path, episode: EpisodeCurves, header: Header) -> None:
    """Write a PNG file with a row per joint: on the left, where whole predicted chunks would lead; on the right, actions."""
    from matplotlib.figure import Figure

    meaning, position_TA = header.action_meaning, episode.position_TA
    joints, columns = header.joint_names, 2 if meaning and position_TA is not None else 1
    figure = Figure(figsize=(9 if columns == 1 else 15, 1.2 + 1.9 * len(joints)), layout="constrained")
    axes = figure.subplots(len(joints), columns, sharex=True, squeeze=False)
    _draw_actions(axes[:, -1], episode, header)
    if meaning and position_TA is not None:
        _draw_positions(axes[:, 0], position_TA, episode.fans, header, meaning)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("time in s")
    for axis in axes[0]:
        axis.legend(loc="best", fontsize=8)
    axes[0, -1].set_ylabel(header.units)
    title = f"episode {episode.number}: recorded and predicted actions ({meaning or 'meaning not known'})"
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def _draw_actions(column: Any, episode: EpisodeCurves, header: Header) -> None:
    seconds_T = np.arange(len(episode.recorded_TA)) / header.fps
    for joint, name in enumerate(header.joint_names):
        column[joint].plot(seconds_T, episode.recorded_TA[:, joint], color=RECORDED, lw=1.6, label="recorded")
        column[joint].plot(seconds_T, episode.executed_TA[:, joint], color=PREDICTED, lw=1.1, label="predicted")
        column[joint].set_title(f"{name}: action", fontsize=10)


def _draw_positions(
    column: Any, position_TA: Floats, fans: Sequence[tuple[int, Floats]], header: Header, meaning: str
) -> None:
    seconds_T, last = np.arange(len(position_TA)) / header.fps, len(position_TA) - 1
    for joint, name in enumerate(header.joint_names):
        column[joint].plot(seconds_T, position_TA[:, joint], color=RECORDED, lw=1.6, label="recorded")
        column[joint].set_title(f"{name}: position", fontsize=10)
        column[joint].set_ylabel(header.units)
    for start, chunk_CA in fans:
        if start >= last:
            continue  # nothing was recorded beyond the end
        path_CA = chunk_positions(position_TA[start], chunk_CA, meaning)[: last - start + 1]
        seconds_C = (start + np.arange(len(path_CA))) / header.fps
        label = "predicted chunks, executed open loop" if start == 0 else None
        for joint, axis in enumerate(column):
            axis.plot(seconds_C, path_CA[:, joint], color=PREDICTED, lw=1.0, alpha=0.8, label=label)
            axis.plot(seconds_C[0], path_CA[0, joint], ".", color=PREDICTED, ms=5)
