"""Rank evaluations by one number of their summaries, and test whether the lead of the winner is significant. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import JsonValue

from common.cli.command import UserError
from stage3_eval.metrics.summary import Record, Summary, seen_in_training

RESAMPLES, SEED = 10_000, 0
MIN_EPISODES = 3  # with fewer, the spread cannot be estimated
EXAMPLES = "policy.first_step.mae, drift.from_commanded.1.0s.mean or latency.p50_s"
# Endings of the keys of a training's configuration that shape no result.
WITHOUT_EFFECT = (
    *("_dir", ".device", ".num_workers", ".frame_cache", ".tensorboard"),
    *("_freq", ".save_every_min", ".keep_last", ".resume"),
)
# Columns of a comparison: heading -> dotted path in summary.json.
COLUMNS = {
    "mean error": "policy.valid_horizon.mae",
    "first step": "policy.first_step.mae",
    "times the best baseline": "ratio_to_best_baseline.valid_horizon",
    "drift after 1 s": "drift.from_commanded.1.0s.mean",
    "latency p50 (s)": "latency.p50_s",
}


class Result(NamedTuple):
    """One evaluation of a comparison."""

    label: str
    summary: Summary
    losses: list[tuple[float, float]]  # (step, loss) of the training, where its run is on this machine
    link: str | None  # to the page of the evaluation, relative to that of the comparison


class Lead(Record):
    """How much better the winner is than the runner-up per episode, and the 95 % interval of the resamples."""

    mean: float
    low: float
    high: float
    episodes: int
    larger_than_spread: bool  # the winner would be the winner on nearly every choice of such episodes


class Comparison(Record):
    """comparison.json: values by label, best first, the winner and its lead, and the hyperparameters that differ."""

    format: Literal["stage3_eval_comparison"] = "stage3_eval_comparison"
    metric: str
    order: list[str]
    values: dict[str, float]
    columns: dict[str, dict[str, float | None]]
    winner: str | None
    incomparable: str | None
    runner_up: str
    lead: Lead | None
    changed: dict[str, dict[str, JsonValue]]
    checkpoints: dict[str, str]
    episodes: dict[str, list[int]]


def compare_summaries(summaries: Mapping[str, Summary], metric: str) -> Comparison:
    """Compare the summaries by label; raises UserError when one of them has no such metric."""
    found = {label: read_metric(summary, metric, label) for label, summary in summaries.items()}
    order = sorted(found, key=lambda label: found[label])
    winner, second = order[:2]
    reason = find_difference(summaries)
    has_winner = not reason and found[winner] != found[second]
    trees = {label: summaries[label].to_json() for label in order}
    return Comparison(
        metric=metric,
        order=order,
        values={label: found[label] for label in order},
        columns={label: {head: look_up(trees[label], path) for head, path in COLUMNS.items()} for label in order},
        winner=winner if has_winner else None,
        incomparable=reason,
        runner_up=second,
        lead=measure_lead(summaries[winner], summaries[second], metric) if has_winner else None,
        changed=find_changed({label: _config(summaries[label]) for label in order}),
        checkpoints={label: summaries[label].checkpoint for label in order},
        episodes={label: summaries[label].episodes for label in order},
    )


def look_up(tree: Any, path: str) -> Any:
    """Follow a dotted path through nested dictionaries, whose keys may contain dots; None where there is no such path."""
    if not path:
        return tree
    for key in tree if isinstance(tree, Mapping) else ():
        if path == key or path.startswith(f"{key}."):
            found = look_up(tree[key], path[len(key) + 1 :])
            if found is not None:
                return found
    return None


def read_metric(summary: Summary, metric: str, label: str) -> float:
    """Return the number at a dotted path; raises UserError naming the evaluation when there is none."""
    found = look_up(summary.to_json(), metric)
    if not isinstance(found, int | float):
        why = f"{summary.left_out}; " if summary.left_out else ""
        raise UserError(f"--metric {metric}: {label} has no such number in its summary.json; {why}try {EXAMPLES}")
    return float(found)


def find_difference(summaries: Mapping[str, Summary]) -> str | None:
    """Return why these evaluations have no common winner, None when one may be named."""
    (first, wanted), *others = [(label, _conditions(summary)) for label, summary in summaries.items()]
    for key in wanted:
        for label, found in others:
            if found[key] != wanted[key]:
                return f"{first} and {label} differ in {key}"
    seen = {label: _seen_in_training(summary) for label, summary in summaries.items() if summary.held_out is not None}
    for label, numbers in seen.items():
        if numbers != next(iter(seen.values())):
            return f"{next(iter(seen))} and {label} differ in which of the episodes they were trained on"
    return None


def measure_lead(winner: Summary, other: Summary, metric: str) -> Lead | None:
    """Resample the episodes, in pairs; None when they are too few or the metric is not known by episode."""
    ours, theirs = _by_episode(winner, metric), _by_episode(other, metric)
    gain = np.array([theirs[number] - ours[number] for number in sorted(ours.keys() & theirs.keys())])
    if len(gain) < MIN_EPISODES:
        return None
    rng = np.random.default_rng(SEED)
    means = np.concatenate(
        [gain[rng.integers(0, len(gain), (100, len(gain)))].mean(axis=1) for _ in range(RESAMPLES // 100)]
    )
    low, high = np.percentile(means, (2.5, 97.5)).tolist()
    return Lead(mean=float(gain.mean()), low=low, high=high, episodes=len(gain), larger_than_spread=low > 0)


def find_changed(configs: Mapping[str, Mapping[str, JsonValue]]) -> dict[str, dict[str, JsonValue]]:
    """Return dotted key -> label -> value of every hyperparameter that is not the same everywhere."""
    flat = {label: dict(_flatten(config)) for label, config in configs.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values if _matters(key))
    by_key = {key: {label: values.get(key) for label, values in flat.items()} for key in keys}
    return {key: values for key, values in by_key.items() if len({repr(value) for value in values.values()}) > 1}


def verdict(comparison: Comparison) -> str:
    """Return in one line who wins, and whether that is significant."""
    if comparison.incomparable:
        return f"No winner: {comparison.incomparable}"
    winner, second, lead = comparison.winner, comparison.runner_up, comparison.lead
    if winner is None:
        return f"No winner: {comparison.order[0]} and {second} have the same {comparison.metric}"
    if lead is None:
        return f"{winner} is ahead of {second}, but too few episodes have this number to tell whether by chance"
    if lead.larger_than_spread:
        return f"{winner} wins: its lead over {second} is larger than the spread over {lead.episodes} episodes"
    return f"{winner} is ahead of {second}, but not by more than the spread over {lead.episodes} episodes"


def _conditions(summary: Summary) -> dict[str, object]:
    return {
        "dataset fingerprint": summary.dataset_fingerprint,
        "protocol": summary.protocol,
        "action meaning": summary.action_meaning,
        "episodes": sorted(summary.episodes),
    }


def _seen_in_training(summary: Summary) -> list[int]:
    """Return which of the episodes a training on this dataset saw: their errors say little about others."""
    training: Any = summary.training
    trained_on = look_up(training, "config.data.episodes")
    return sorted(seen_in_training(summary.episodes, training.get("val_episodes", []), trained_on))


def _config(summary: Summary) -> Mapping[str, JsonValue]:
    config = summary.training.get("config")
    return config if isinstance(config, dict) else {}


def _by_episode(summary: Summary, metric: str) -> dict[int, float]:
    """Return the metric of each episode that has one, by its number."""
    found = {episode.episode_index: look_up(episode.model_dump(), metric) for episode in summary.by_episode}
    return {number: float(value) for number, value in found.items() if isinstance(value, int | float)}


def _flatten(config: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _matters(key: str) -> bool:
    """Whether a key shapes the result: folders, tracking, saving and data loading do not."""
    return not key.startswith("wandb.") and not key.endswith(WITHOUT_EFFECT)
