"""Scores of one episode: everything that the summary and the page need of it, without its images. Pure.

Letters in array names: T frames of the episode, S chunks, C chunk steps, A action dimensions, F chunks kept for drawing.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from common.lerobot.metadata import Episode
from stage3_eval.metrics.baselines import baseline_chunks
from stage3_eval.metrics.errors import Errors, Floats, Frames, chunk_errors, frame_errors
from stage3_eval.metrics.motion import Drift, Steps, drifts, steps
from stage3_eval.metrics.summary import OPEN_LOOP, Header

POLICY = "policy"
FANS = 2  # chunks kept for drawing per chunk length
APART_S = 0.5  # two worst moments closer than this are one


class Prediction(NamedTuple):
    """Predictions for one episode, in robot units; NaN in `latency_T_s` where no prediction was timed."""

    start_S: Frames
    chunk_SCA: npt.NDArray[np.float32]
    executed_TA: npt.NDArray[np.float32]
    latency_T_s: npt.NDArray[np.float64]


class Motion(NamedTuple):
    """Where the actions lead, which needs their meaning."""

    drift: dict[str, Drift]
    executed: Steps


class Moment(NamedTuple):
    """A frame whose chunk was far off."""

    episode: Episode
    frame: int
    error: float
    chunk_CA: npt.NDArray[np.float32]


class EpisodeScores(NamedTuple):
    """Scores of one episode, about 100 bytes per frame and joint; no `motion` without a meaning of actions.

    `heat_TA` is the error of each frame per joint: of its chunk in open_loop, of the executed action in queue.
    """

    errors: dict[str, Errors]  # of the policy and of each baseline
    motion: Motion | None
    latency_s: npt.NDArray[np.float64]
    heat_TA: npt.NDArray[np.float32]
    executed_TA: npt.NDArray[np.float32]
    fan_F: Frames
    fan_FCA: npt.NDArray[np.float32]
    moments: list[Moment]  # the worst, apart from each other, worst first


def score_episode(
    episode: Episode,
    recorded_TA: Floats,
    position_TA: Floats | None,
    prediction: Prediction,
    header: Header,
    mean_A: Floats,
    n_moments: int,
) -> EpisodeScores:
    """Compare the prediction of an episode, and every baseline, with the recording; `mean_A` is the dataset's mean action."""
    start_S, chunk_SCA, executed_TA, latency_T_s = prediction
    n_steps, meaning = chunk_SCA.shape[1], header.action_meaning
    errors = {POLICY: chunk_errors(chunk_SCA, recorded_TA, start_S)}
    for name, chunk_TCA in baseline_chunks(recorded_TA, position_TA, mean_A, meaning, n_steps):
        errors[name] = chunk_errors(chunk_TCA[start_S], recorded_TA, start_S)
    error_SA = frame_errors(chunk_SCA, recorded_TA, start_S)
    heat_TA = error_SA if header.protocol == OPEN_LOOP else np.abs(executed_TA - recorded_TA)
    error_S = error_SA.take(header.overall, axis=1).mean(axis=1)
    worst = _worst(error_S, start_S, n_moments, round(APART_S * header.fps))
    fans = np.flatnonzero(np.diff(start_S // max(1, n_steps // FANS), prepend=-1))
    return EpisodeScores(
        errors=errors,
        motion=None if meaning is None else _motion(recorded_TA, position_TA, prediction, meaning, header),
        latency_s=latency_T_s[np.isfinite(latency_T_s)],
        heat_TA=heat_TA.astype(np.float32),
        executed_TA=executed_TA.copy(),  # open_loop: a view that would keep all chunks in memory
        fan_F=start_S[fans],
        fan_FCA=chunk_SCA[fans],
        moments=[Moment(episode, int(start_S[i]), float(error_S[i]), chunk_SCA[i].copy()) for i in worst],
    )


def _motion(
    recorded_TA: Floats, position_TA: Floats | None, prediction: Prediction, meaning: str, header: Header
) -> Motion:
    start_S, chunk_SCA, executed_TA, _ = prediction
    speed = header.max_joint_speed
    limit_A = None if speed is None else np.array([np.inf if one is None else one for one in speed]) / header.fps
    return Motion(
        drifts(chunk_SCA, start_S, executed_TA, recorded_TA, meaning, header.fps),
        steps(executed_TA, position_TA, meaning, limit_A),
    )


def _worst(error_S: Floats, start_S: Frames, count: int, apart: int) -> list[int]:
    """Return the chunks with the largest errors, at most `count`, whose frames are at least `apart` frames apart."""
    chosen: list[int] = []
    for chunk in np.argsort(-error_S, kind="stable").tolist():
        if len(chosen) == count:
            break
        if all(abs(start_S[chunk] - start_S[other]) >= apart for other in chosen):
            chosen.append(chunk)
    return chosen
