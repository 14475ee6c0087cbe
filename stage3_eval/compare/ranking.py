"""Summaries of several evaluations in; their order by one number, and whether the winner's lead means anything, out. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from common.cli.command import UserError

RESAMPLES, SEED = 10_000, 0
FEW = 3  # episodes: with fewer no spread can be told
EXAMPLES = "policy.first_step.mae, drift.from_commanded.1.0s.mean or latency.p50_s"
# What a comparison shows of each evaluation: words -> its place in summary.json.
COLUMNS = {
    "mean error": "policy.valid_horizon.mae",
    "first step": "policy.first_step.mae",
    "times the best rule": "ratio_to_best_baseline.valid_horizon",
    "drift after 1 s": "drift.from_commanded.1.0s.mean",
    "latency p50 (s)": "latency.p50_s",
}
# Without these in common, numbers of two evaluations cannot be held against each other.
COMMON = ("dataset_fingerprint", "protocol", "action_meaning")


class Lead(NamedTuple):
    """How much better the winner is than the next one per common episode, and where 95 % of resamples put that."""

    mean: float
    low: float
    high: float
    episodes: int

    @property
    def larger_than_spread(self) -> bool:
        """Whether the winner would be the winner on nearly every choice of such episodes."""
        return self.low > 0


def look_up(tree: Any, path: str) -> Any:
    """Follow a dotted path through nested dictionaries, whose keys may hold dots themselves; None where it ends nowhere."""
    if not path:
        return tree
    for key in tree if isinstance(tree, Mapping) else ():
        if path == key or path.startswith(f"{key}."):
            found = look_up(tree[key], path[len(key) + 1 :])
            if found is not None:
                return found
    return None


def value(summary: Mapping[str, Any], metric: str, label: str) -> float:
    """Return a summary's number of that dotted path; raises UserError naming the evaluation when there is none."""
    found = look_up(summary, metric)
    if not isinstance(found, int | float):
        raise UserError(f"--metric {metric}: {label} has no such number in its summary.json; try {EXAMPLES}")
    return float(found)


def incomparable(summaries: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Say why numbers of these evaluations cannot be held against each other, None when they can."""
    for key in COMMON:
        seen: dict[str, str] = {}
        for label, summary in summaries.items():
            seen.setdefault(str(summary[key]), label)
        if len(seen) > 1:
            one, other = list(seen.values())[:2]
            return f"{one} and {other} differ in {key.replace('_', ' ')}"
    return None


def ranked(summaries: Mapping[str, Mapping[str, Any]], metric: str) -> list[str]:
    """Return the labels, best (lowest) first: by all episodes, or by the common ones when not all have the same."""
    episodes = {tuple(summary["episodes"]) for summary in summaries.values()}
    common = common_episodes(list(summaries.values()), metric)
    whole = len(episodes) == 1 or not common
    scores = {
        label: value(summary, metric, label) if whole else float(np.mean(_by_episode(summary, metric, common)))
        for label, summary in summaries.items()
    }
    return sorted(scores, key=lambda label: scores[label])


def common_episodes(summaries: Sequence[Mapping[str, Any]], metric: str) -> list[int]:
    """Return the episodes that all evaluations have, and know the metric of."""
    sets = [
        {of["episode_index"] for of in summary["by_episode"] if isinstance(look_up(of, metric), int | float)}
        for summary in summaries
    ]
    return sorted(set.intersection(*sets))


def lead(winner: Mapping[str, Any], other: Mapping[str, Any], metric: str) -> Lead | None:
    """Resample the common episodes, in pairs; None when they are too few or the metric is not known by episode."""
    common = common_episodes([winner, other], metric)
    if len(common) < FEW:
        return None
    gain = np.subtract(_by_episode(other, metric, common), _by_episode(winner, metric, common))
    rng = np.random.default_rng(SEED)
    means = np.concatenate(
        [gain[rng.integers(0, len(gain), (100, len(gain)))].mean(axis=1) for _ in range(RESAMPLES // 100)]
    )
    low, high = np.percentile(means, (2.5, 97.5)).tolist()
    return Lead(float(gain.mean()), low, high, len(common))


def changed(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return dotted key -> label -> value of every hyperparameter that is not the same everywhere."""
    flat = {label: dict(_flatten(config)) for label, config in configs.items()}
    keys = dict.fromkeys(key for of in flat.values() for key in of)
    differing = {key: {label: of.get(key) for label, of in flat.items()} for key in keys if _matters(key)}
    return {key: of for key, of in differing.items() if len({repr(value) for value in of.values()}) > 1}


def verdict(told: Mapping[str, Any]) -> str:
    """Say in one line who wins, and whether that means anything."""
    if told["incomparable"]:
        return f"no winner: {told['incomparable']}"
    winner, second, of = told["winner"], told["runner_up"], told["lead"]
    if told["values"][winner] == told["values"][second]:
        return f"no winner: {winner} and {second} have the same {told['metric']}"
    if of is None:
        return f"{winner} is ahead of {second}, but there are too few common episodes to tell whether by chance"
    if of["larger_than_spread"]:
        return f"{winner} wins: its lead over {second} is larger than the spread over {of['episodes']} episodes"
    return f"{winner} is ahead of {second}, but not by more than the spread over {of['episodes']} episodes"


def _by_episode(summary: Mapping[str, Any], metric: str, numbers: Sequence[int]) -> list[float]:
    by_number = {of["episode_index"]: of for of in summary["by_episode"]}
    return [float(look_up(by_number[number], metric)) for number in numbers]


def _flatten(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, of in config.items():
        if isinstance(of, Mapping):
            yield from _flatten(of, f"{above}{key}.")
        else:
            yield f"{above}{key}", of


def _matters(key: str) -> bool:
    """Where results and caches lie changes nothing in them, nor does what tracks, saves and feeds the run."""
    return not key.startswith("wandb.") and not key.endswith(("_dir", ".device", ".num_workers", "_freq"))
