"""The winner is the one with the lowest number, and a lead that chance explains is not called one."""

import numpy as np
import pytest
from pydantic import JsonValue

from common.cli.command import UserError
from stage3_eval.compare.ranking import (
    compare_summaries,
    find_changed,
    find_difference,
    look_up,
    measure_lead,
    read_metric,
    verdict,
)
from stage3_eval.metrics.summary import Summary
from tests.stage3_eval.summaries import make_summary

METRIC = "policy.valid_horizon.mae"


def test_a_dotted_path_finds_keys_that_hold_dots() -> None:
    tree = {"drift": {"1.0s": {"mean": 3.0}, "1": {"0s": 4}}, "joint.1": {"mae": 5}}
    assert look_up(tree, "drift.1.0s.mean") == 3.0
    assert look_up(tree, "joint.1.mae") == 5
    assert look_up(tree, "drift.2.0s.mean") is None


def test_a_metric_that_is_not_there_is_refused_naming_the_evaluation() -> None:
    for metric in ("policy.nothing", "policy", "protocol"):
        with pytest.raises(UserError, match=f"--metric {metric}: a has no such number"):
            read_metric(make_summary([1]), metric, "a")


def test_the_lowest_comes_first() -> None:
    three = {"a": make_summary([2, 2]), "b": make_summary([1, 1]), "c": make_summary([3, 3])}
    comparison = compare_summaries(three, METRIC)
    assert comparison.order == list(comparison.values) == ["b", "a", "c"]


def test_a_steady_lead_is_larger_than_the_spread_and_a_lucky_one_is_not() -> None:
    base = np.random.default_rng(1).uniform(1, 9, 8)  # episodes differ far more than the policies do
    steady = measure_lead(make_summary((base - 0.1).tolist()), make_summary(base.tolist()), METRIC)
    assert steady is not None
    assert steady.larger_than_spread
    assert (steady.low, steady.mean, steady.high) == pytest.approx((0.1, 0.1, 0.1))
    gains = np.array([8.0, -0.9, -1, -1.1, -0.9, -1, -1, -1])
    lucky = measure_lead(make_summary((base - gains).tolist()), make_summary(base.tolist()), METRIC)
    assert lucky is not None
    assert lucky.mean > 0
    assert not lucky.larger_than_spread
    assert lucky.low < 0 < lucky.high


def test_resampling_says_the_same_twice_and_agrees_with_theory() -> None:
    rng = np.random.default_rng(3)
    base, gain = rng.uniform(1, 2, 200), rng.normal(0.5, 1.0, 200)
    first, second = (
        measure_lead(make_summary((base - gain).tolist()), make_summary(base.tolist()), METRIC) for _ in range(2)
    )
    assert first == second
    assert first is not None
    half = 1.96 * gain.std() / np.sqrt(200)
    assert (first.low, first.high) == pytest.approx((gain.mean() - half, gain.mean() + half), abs=0.02)


def test_two_episodes_are_too_few_and_so_is_a_metric_without_episodes() -> None:
    assert measure_lead(make_summary([1, 1]), make_summary([2, 2]), METRIC) is None
    with_latency = make_summary([1, 1, 1])
    assert measure_lead(with_latency, with_latency, "latency.p50_s") is None


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("dataset_fingerprint", "other"),
        ("protocol", "queue"),
        ("action_meaning", "command"),
        ("action_meaning", None),
        ("episodes", [0, 1, 2]),
    ],
)
def test_evaluations_of_other_data_or_rules_have_no_common_winner(key: str, other: object) -> None:
    summaries = {"a": make_summary([3, 3]), "b": make_summary([3, 3]), "c": make_summary([1, 1], (), **{key: other})}
    comparison = compare_summaries(summaries, METRIC)
    assert verdict(comparison) == f"No winner: a and c differ in {key.replace('_', ' ')}"
    assert (comparison.winner, comparison.lead) == (None, None)
    assert comparison.values == {"c": 1, "a": 3, "b": 3}


def test_a_policy_that_was_trained_on_the_episodes_does_not_win_against_one_that_was_not() -> None:
    def trained(values: list[float], val_episodes: list[JsonValue], chosen: list[JsonValue] | None = None) -> Summary:
        training: dict[str, JsonValue] = {"val_episodes": val_episodes, "config": {"data": {"episodes": chosen}}}
        return make_summary(values, training=training, held_out=set(val_episodes) == {0, 1, 2})

    fair, saw_one, saw_all = trained([2, 2, 2], [0, 1, 2]), trained([1, 1, 1], [1, 2]), trained([1, 1, 1], [])
    for other in (saw_one, saw_all):
        comparison = compare_summaries({"a": fair, "b": other}, METRIC)
        assert verdict(comparison) == "No winner: a and b differ in which of the episodes they were trained on"
    assert find_difference({"a": saw_one, "b": saw_all}) is not None
    assert find_difference({"a": saw_one, "b": trained([3, 3, 3], [1, 2])}) is None
    assert find_difference({"a": fair, "b": trained([3, 3, 3], [], [7, 8])}) is None  # of other episodes
    assert find_difference({"a": saw_all, "b": make_summary([3, 3, 3])}) is None  # nobody knows of the second


def test_the_order_of_the_episodes_makes_no_difference() -> None:
    assert find_difference({"a": make_summary([1, 2], [0, 1]), "b": make_summary([2, 1], [1, 0])}) is None


def test_a_tie_has_no_winner() -> None:
    comparison = compare_summaries({"a": make_summary([1, 2, 3]), "b": make_summary([1, 2, 3])}, METRIC)
    assert (comparison.winner, comparison.lead) == (None, None)
    assert verdict(comparison) == f"No winner: a and b have the same {METRIC}"
    ahead = compare_summaries({"a": make_summary([1, 2, 3]), "b": make_summary([1, 2, 2])}, METRIC)
    assert ahead.winner == "b"


def test_only_hyperparameters_that_differ_are_listed() -> None:
    first: dict[str, JsonValue] = {
        "training": {
            "lr": 1e-4,
            "steps": 20,
            "output_dir": "a",
            "keep_last": 2,
            "save_every_min": 0,
            "resume": "auto",
            "tensorboard": False,
        },
        "model": {"dim_model": 64},
        "wandb": {"tags": ["x"]},
    }
    second: dict[str, JsonValue] = {
        "training": {
            "lr": 1e-3,
            "steps": 20,
            "output_dir": "b",
            "keep_last": 0,
            "save_every_min": 5,
            "resume": "never",
            "tensorboard": True,
        },
        "model": {},
        "wandb": {"tags": ["y"]},
    }
    assert find_changed({"a": first, "b": second}) == {
        "training.lr": {"a": 1e-4, "b": 1e-3},
        "model.dim_model": {"a": 64, "b": None},
    }
    assert find_changed({"a": first, "b": first}) == {}
