"""One episode's recording and prediction in; everything that the summary and the page need of it out, small enough to keep.

Letters in array names: T frames of the episode, S chunks, C chunk steps, A action dimensions, F chunks kept for drawing,
M worst moments.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from common.storage.files import atomic_path
from stage3_eval.metrics.baselines import baseline_chunks
from stage3_eval.metrics.errors import Errors, Floats, Frames, chunk_errors, frame_errors
from stage3_eval.metrics.motion import Drift, Steps, drifts, steps
from stage3_eval.predict import OPEN_LOOP, Prediction

POLICY, EXECUTED, RECORDED = "policy", "executed", "recorded"
_PARTS: dict[str, Any] = {"errors": Errors, "drift": Drift, "steps": Steps}
FANS = 2  # chunks kept for drawing per chunk length
APART_S = 0.5  # two worst moments closer than this are one


class Rules(NamedTuple):
    """How an evaluation looks at its episodes: the same for all of them."""

    protocol: str
    action_meaning: str
    fps: int
    mean_action_A: Floats
    step_limit_A: Floats | None  # the largest allowed step per frame, None: none given
    n_moments: int


class EpisodeScores(NamedTuple):
    """What is kept of an episode. `heat_TA` is each frame's error per joint: its chunk's, or the executed action's."""

    errors: dict[str, Errors]  # of the policy and of each baseline
    drift: dict[str, Drift]
    steps: dict[str, Steps]  # executed, recorded
    latency_s: npt.NDArray[np.float64]
    heat_TA: npt.NDArray[np.float32]
    executed_TA: npt.NDArray[np.float32]
    fan_F: Frames
    fan_FCA: npt.NDArray[np.float32]
    moment_M: Frames
    moment_M_error: npt.NDArray[np.float64]
    moment_MCA: npt.NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write everything into one .npz file, at once."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for field, value in self._asdict().items():
            if isinstance(value, dict):
                for name, of in value.items():
                    arrays |= {f"{field}/{name}/{key}": array for key, array in of._asdict().items()}
            else:
                arrays[field] = value
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "EpisodeScores":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            fields: dict[str, Any] = {field: {} for field in _PARTS}
            for name in arrays.files:
                field, *below = name.split("/")
                if below:
                    fields[field].setdefault(below[0], {})[below[1]] = arrays[name]
                else:
                    fields[field] = arrays[name]
        for field, cls_of in _PARTS.items():
            fields[field] = {name: cls_of(**of) for name, of in fields[field].items()}
        return cls(**fields)


def score_episode(
    recorded_TA: Floats, position_TA: Floats | None, prediction: Prediction, rules: Rules
) -> EpisodeScores:
    """Compare an episode's prediction and every baseline with the recording."""
    start_S, chunk_SCA, executed_TA = prediction.start_S, prediction.chunk_SCA, prediction.executed_TA
    n_steps, meaning, limit_A = chunk_SCA.shape[1], rules.action_meaning, rules.step_limit_A
    errors = {POLICY: chunk_errors(chunk_SCA, recorded_TA, start_S)}
    for name, chunk_TCA in baseline_chunks(recorded_TA, position_TA, rules.mean_action_A, meaning, n_steps):
        errors[name] = chunk_errors(chunk_TCA[start_S], recorded_TA, start_S)
    error_SA = frame_errors(chunk_SCA, recorded_TA, start_S)
    heat_TA = error_SA if rules.protocol == OPEN_LOOP else np.abs(executed_TA - recorded_TA)
    error_S = error_SA.mean(axis=1)
    worst = _worst(error_S, start_S, rules.n_moments, round(APART_S * rules.fps))
    fans = np.flatnonzero(np.diff(start_S // max(1, n_steps // FANS), prepend=-1))
    return EpisodeScores(
        errors=errors,
        drift=drifts(chunk_SCA, start_S, executed_TA, recorded_TA, meaning, rules.fps),
        steps={
            EXECUTED: steps(executed_TA, position_TA, meaning, limit_A),
            RECORDED: steps(recorded_TA, position_TA, meaning, limit_A),
        },
        latency_s=prediction.latency_T_s[np.isfinite(prediction.latency_T_s)],
        heat_TA=heat_TA.astype(np.float32),
        executed_TA=executed_TA,
        fan_F=start_S[fans],
        fan_FCA=chunk_SCA[fans],
        moment_M=start_S[worst],
        moment_M_error=error_S[worst],
        moment_MCA=chunk_SCA[worst],
    )


def merge(episodes: Mapping[str, Any], more: Mapping[str, Any], add: Any) -> dict[str, Any]:
    """Return both mappings in one; what both hold is added."""
    return {
        key: add(episodes[key], more[key]) if key in episodes and key in more else {**episodes, **more}[key]
        for key in {**episodes, **more}
    }


def _worst(error_S: Floats, start_S: Frames, count: int, apart: int) -> list[int]:
    chosen: list[int] = []
    for place in np.argsort(-error_S, kind="stable").tolist():
        if len(chosen) == count:
            break
        if all(abs(start_S[place] - start_S[other]) >= apart for other in chosen):
            chosen.append(place)
    return chosen
