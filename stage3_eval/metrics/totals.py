"""The summary of an evaluation from the scores of its episodes."""

import math
import platform
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from common.lerobot.metadata import Episode
from stage3_eval.metrics.errors import Errors, Floats, add_errors, compare_to_best, summarize
from stage3_eval.metrics.motion import add_drifts, add_steps, describe_drifts
from stage3_eval.metrics.scores import POLICY, EpisodeScores, Motion
from stage3_eval.metrics.summary import (
    FIRST_STEP,
    VALID_HORIZON,
    ChunkErrors,
    Degrees,
    Drifts,
    DriftStats,
    EpisodeSummary,
    ErrorStats,
    Header,
    Latency,
    RobotFacts,
    Scope,
    Summary,
)

SCOPES = (FIRST_STEP, VALID_HORIZON)
APPLY = {
    "delta": "add each action to the joint positions: to the measured ones, read again when a chunk arrives, or to the last "
    "commanded ones, without reading the measured position again; the two drifts show what either costs",
    "next_position": "command each action as the joint positions to reach within one frame; errors do not add up",
    "command": "send each action as it is to the command topic the recording came from; errors do not add up",
}


class _Comparison(NamedTuple):
    policy: ChunkErrors
    baselines: dict[str, ChunkErrors]
    best: dict[Scope, str]
    ratio: dict[Scope, float | None]


def summarize_evaluation(
    header: Header, episodes: Sequence[Episode], scores: Sequence[EpisodeScores], first_call_s: float
) -> Summary:
    """Return the whole summary; `scores` are those of `episodes`, in the same order."""
    errors = {name: add_errors([episode.errors[name] for episode in scores]) for name in scores[0].errors}
    motions = [episode.motion for episode in scores if episode.motion]
    drift = _add_drifts(motions, header) if motions else None
    compared = _compare(errors, header)
    latency_s = np.concatenate([episode.latency_s for episode in scores]).tolist()
    return Summary(
        **dict(header),
        policy=compared.policy,
        baselines=compared.baselines,
        best_baseline=compared.best,
        ratio_to_best_baseline=compared.ratio,
        drift=drift,
        degrees=_in_degrees(compared, drift, header.other_units) if drift and header.units == "rad" else None,
        robot=_robot(header, header.action_meaning, motions) if header.action_meaning else None,
        latency=describe_latency(latency_s, first_call_s, header.device),
        by_episode=[_summarize_episode(*pair, header) for pair in zip(episodes, scores, strict=True)],
    )


def describe_latency(seconds: list[float], first_call_s: float, device: str) -> Latency:
    """Return percentiles of the warm batch-1 calls, the first call, and the machine they were measured on."""
    p50_s, p95_s, p99_s = np.percentile(seconds, (50, 95, 99)).tolist() if seconds else (None, None, None)
    return Latency(
        device=device,
        machine=torch.cuda.get_device_name() if device == "cuda" else _processor(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        batch_size=1,
        n=len(seconds),
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
        first_call_s=first_call_s,
    )


def _compare(errors: Mapping[str, Errors], header: Header) -> _Comparison:
    baselines = {name: summarize(summed, header.joint_names, header.overall) for name, summed in errors.items()}
    policy = baselines.pop(POLICY)
    best = {scope: compare_to_best(policy, baselines, scope) for scope in SCOPES}
    names = {scope: name for scope, (name, _) in best.items()}
    return _Comparison(policy, baselines, names, {scope: ratio for scope, (_, ratio) in best.items()})


def _add_drifts(motions: Sequence[Motion], header: Header) -> Drifts:
    names = {name for motion in motions for name in motion.drift}
    added = {name: add_drifts([motion.drift[name] for motion in motions if name in motion.drift]) for name in names}
    return describe_drifts(added, header.joint_names, header.overall)


def _summarize_episode(episode: Episode, scores: EpisodeScores, header: Header) -> EpisodeSummary:
    compared = _compare(scores.errors, header)
    drift = describe_drifts(scores.motion.drift, header.joint_names, header.overall) if scores.motion else None
    return EpisodeSummary(
        episode_index=episode.number,
        frames=episode.length,
        policy={
            scope: ErrorStats(**compared.policy.scope(scope).model_dump(exclude={"per_joint"})) for scope in SCOPES
        },
        best_baseline=compared.best,
        ratio_to_best_baseline=compared.ratio,
        drift=None
        if drift is None
        else {
            start: {time: found and DriftStats(mean=found.mean, max=found.max) for time, found in times.items()}
            for start, times in drift.items()
        },
    )


def _in_degrees(compared: _Comparison, drift: Drifts, other_units: Collection[str]) -> Degrees:
    radians = Degrees(policy=compared.policy, baselines=compared.baselines, drift=drift)
    return Degrees.model_validate(_to_degrees(radians.model_dump(), other_units))


def _to_degrees(value: Any, kept: Collection[str], by_joint: bool = False) -> Any:
    """Convert the numbers in a tree, but for what `per_joint` holds of the joints that are `kept`."""
    if isinstance(value, dict):
        return {
            key: child if by_joint and key in kept else _to_degrees(child, kept, key == "per_joint")
            for key, child in value.items()
        }
    if isinstance(value, list):
        return [_to_degrees(child, kept) for child in value]
    return math.degrees(value) if isinstance(value, float) else value


def _robot(header: Header, meaning: str, motions: Sequence[Motion]) -> RobotFacts:
    executed = add_steps([motion.executed for motion in motions])
    limit = header.max_joint_speed

    def by_joint(values: Floats | Sequence[float]) -> dict[str, float]:
        return dict(zip(header.joint_names, np.asarray(values).tolist(), strict=True))

    return RobotFacts(
        apply=APPLY[meaning],
        largest_step=by_joint(executed.largest_A),
        largest_speed_per_s=by_joint(executed.largest_A * header.fps),
        speed_limit_per_s=None if limit is None else dict(zip(header.joint_names, limit, strict=True)),
        share_over_limit=None if limit is None else by_joint(executed.over_A / executed.frames),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
