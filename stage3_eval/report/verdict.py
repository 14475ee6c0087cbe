"""The verdict: whether the policy is better than the best baseline, in one line. Pure."""

from typing import Literal, NamedTuple

from common.report.formatting import counted, words
from stage3_eval.metrics.summary import FIRST_STEP, VALID_HORIZON, Scope, Summary

BASELINE_WORDS = {
    "zero_action": "not moving",
    "hold_still": "staying in place",
    "repeat_last": "repeating the last action",
    "dataset_mean": "the mean action",
    "linear_extrapolation": "continuing at the current speed",
}


class Verdict(NamedTuple):
    """The answer, and the color that the page gives it."""

    level: Literal["good", "warn", "bad"]
    answer: str


def describe_baseline(name: str) -> str:
    """Return what people call a baseline; its name with spaces where BASELINE_WORDS has none."""
    return BASELINE_WORDS.get(name, words(name))


def coverage(summary: Summary) -> str:
    """Return what the overall error is of, where that is not every dimension; else nothing."""
    if not summary.other_units:
        return ""
    *first, last = summary.other_units
    others = f"{last} has its own unit and its own row"
    if first:
        others = f"{', '.join(first)} and {last} have their own units and their own rows"
    return f"The overall error is of the {counted(len(summary.overall), 'joint')}; {others}."


def best_by_joint(summary: Summary) -> dict[str, float]:
    """Return the error of the best baseline for each joint."""
    horizons = [errors.valid_horizon.per_joint for errors in summary.baselines.values()]
    return {joint: min(horizon[joint].mae for horizon in horizons) for joint in summary.joint_names if horizons}


def verdict(summary: Summary, scope: Scope) -> Verdict:
    """Compare the policy with the best baseline over the first step or the valid horizon."""
    best, ratio = describe_baseline(summary.best_baseline[scope]), summary.ratio_to_best_baseline[scope]
    if ratio is None:
        return Verdict("warn", f"No verdict: {best} makes no error at all; do these episodes move?")
    compared = f"{ratio:.2f} times the error of {best}{' at the first step' if scope == FIRST_STEP else ''}"
    if ratio >= 1:
        return Verdict("bad", f"Not better than the best baseline: {compared}")
    if scope == VALID_HORIZON and (worse := _worse(summary)):
        return Verdict("warn", f"Better than every baseline, but not for {', '.join(worse)}: {compared}")
    return Verdict("good", f"Better than every baseline: {compared}")


def _worse(summary: Summary) -> list[str]:
    """Return the dimensions outside of the overall error for which the policy is not better than the best baseline.

    A gripper that never closes can hide behind joints that move well.
    """
    if not summary.other_units:
        return []
    policy, best = summary.policy.valid_horizon.per_joint, best_by_joint(summary)
    # A baseline without an error is that of a number that never moves, which nothing can beat.
    return [name for name in summary.other_units if 0 < best.get(name, 0) <= policy[name].mae]
