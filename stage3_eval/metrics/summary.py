"""The scores of every episode, one after the other, in; the summary, plain numbers for summary.json, out.

Only running totals and a few numbers per episode are kept, however many episodes there are.
"""

import math
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.lerobot.dataset import Episode
from stage3_eval.metrics import errors as metrics
from stage3_eval.metrics import motion
from stage3_eval.metrics.baselines import describe_baselines
from stage3_eval.metrics.errors import FIRST_STEP, VALID_HORIZON, Errors
from stage3_eval.metrics.scores import EXECUTED, POLICY, RECORDED, EpisodeScores, merge

APPLY = {
    "delta": "add each action to the joint positions: to the measured ones, read anew when a chunk arrives, or to the last "
    "commanded ones, which never looks at the arm again; the two drifts show what either costs",
    "next_position": "command each action as the joint positions to reach within one frame; errors do not add up",
    "command": "send each action as it is to the command topic the recording came from; errors do not add up",
}


class Totals:
    """Everything added up over the episodes so far."""

    def __init__(self, joints: list[str]) -> None:
        self._joints = joints
        self._errors: dict[str, Errors] = {}
        self._drift: dict[str, motion.Drift] = {}
        self._steps: dict[str, motion.Steps] = {}
        self._latency_s: list[float] = []
        self._by_episode: list[dict[str, Any]] = []

    def add(self, episode: Episode, scores: EpisodeScores) -> None:
        """Take in one episode."""
        joints = self._joints
        self._errors = merge(self._errors, scores.errors, lambda one, other: metrics.together([one, other]))
        self._drift = merge(self._drift, scores.drift, motion.add_drifts)
        self._steps = merge(self._steps, scores.steps, motion.add_steps)
        self._latency_s += scores.latency_s.tolist()
        told = _score(scores.errors, joints)
        scopes = (FIRST_STEP, VALID_HORIZON)
        overall = {scope: {key: told[POLICY][scope][key] for key in ("mae", "rmse", "max")} for scope in scopes}
        self._by_episode.append(
            {
                "episode_index": episode.number,
                "frames": episode.length,
                "policy": overall,
                "best_baseline": told["best_baseline"],
                "ratio_to_best_baseline": told["ratio_to_best_baseline"],
                "drift": _overall(motion.describe_drifts(scores.drift, joints)),
            }
        )

    @property
    def latency_s(self) -> list[float]:
        """Every timed call, in order."""
        return self._latency_s

    def summary(self, facts: dict[str, Any], first_call_s: float, device: str) -> dict[str, Any]:
        """Return the whole summary: `facts`, scores, drift, what a robot needs to know, latency, by episode."""
        meaning, joints = facts["action_meaning"], self._joints
        scores = _score(self._errors, joints)
        drift = motion.describe_drifts(self._drift, joints)
        told = {**facts, **scores, "baseline_meanings": describe_baselines(meaning), "drift": drift}
        if facts["units"] == "rad":
            told["degrees"] = in_degrees({key: told[key] for key in (POLICY, "baselines", "drift")})
        return {
            **told,
            "robot": _robot(self._steps, facts, joints),
            "latency": describe_latency(self._latency_s, first_call_s, device),
            "by_episode": self._by_episode,
        }


def in_degrees(value: Any) -> Any:
    """Return nested numbers of radians as degrees."""
    if isinstance(value, dict):
        return {key: in_degrees(of) for key, of in value.items()}
    if isinstance(value, list):
        return [in_degrees(of) for of in value]
    return math.degrees(value) if isinstance(value, float) else value


def describe_latency(seconds: list[float], first_call_s: float, device: str) -> dict[str, Any]:
    """Return percentiles of the warm batch-1 calls, the first call, and the machine that they are true of."""
    points = np.percentile(seconds, (50, 95, 99)).tolist() if seconds else [None] * 3
    times = dict(zip(("p50_s", "p95_s", "p99_s"), points, strict=True))
    machine = torch.cuda.get_device_name() if device == "cuda" else _processor()
    where = {"device": device, "machine": machine, "threads": torch.get_num_threads(), "torch": torch.__version__}
    return {**where, "batch_size": 1, "n": len(seconds), **times, "first_call_s": first_call_s}


def _score(errors: dict[str, Errors], joints: list[str]) -> dict[str, Any]:
    baselines = {name: metrics.summarize(of, joints) for name, of in errors.items()}
    policy = baselines.pop(POLICY)
    best = {scope: metrics.compare_to_best(policy, baselines, scope) for scope in (FIRST_STEP, VALID_HORIZON)}
    return {
        POLICY: policy,
        "baselines": baselines,
        "best_baseline": {scope: name for scope, (name, _) in best.items()},
        "ratio_to_best_baseline": {scope: ratio for scope, (_, ratio) in best.items()},
    }


def _overall(drift: dict[str, Any]) -> dict[str, Any]:
    return {
        start: {after: None if of is None else {"mean": of["mean"], "max": of["max"]} for after, of in at.items()}
        for start, at in drift.items()
    }


def _robot(steps: dict[str, motion.Steps], facts: dict[str, Any], joints: list[str]) -> dict[str, Any]:
    executed, recorded = steps[EXECUTED], steps[RECORDED]
    fps, limit = facts["fps"], facts["evaluation"]["max_joint_speed"]

    def by_joint(values: Any) -> dict[str, Any]:
        return dict(zip(joints, np.asarray(values).tolist(), strict=True))

    return {
        "apply": APPLY[facts["action_meaning"]],
        "largest_step": by_joint(executed.largest_A),
        "largest_recorded_step": by_joint(recorded.largest_A),
        "largest_speed_per_s": by_joint(executed.largest_A * fps),
        "speed_limit_per_s": None if limit is None else by_joint(limit),
        "share_over_limit": None if limit is None else by_joint(executed.over_A / executed.frames),
        "recorded_share_over_limit": None if limit is None else by_joint(recorded.over_A / recorded.frames),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
