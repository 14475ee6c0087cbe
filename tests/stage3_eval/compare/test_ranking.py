"""The winner is the one with the lowest number, and a lead that chance explains is not called one."""

from typing import Any

import numpy as np
import pytest

from common.cli.command import UserError
from stage3_eval.compare.ranking import changed, common_episodes, incomparable, lead, look_up, ranked, value

METRIC = "policy.valid_horizon.mae"


def summary(values: list[float], numbers: list[int] | None = None, **facts: object) -> dict[str, Any]:
    numbers = numbers or list(range(len(values)))
    return {
        "dataset_fingerprint": "d",
        "protocol": "open_loop",
        "action_meaning": "delta",
        "episodes": numbers,
        "policy": {"valid_horizon": {"mae": float(np.mean(values))}},
        "by_episode": [
            {"episode_index": number, "policy": {"valid_horizon": {"mae": of}}}
            for number, of in zip(numbers, values, strict=True)
        ],
        **facts,
    }


def test_a_dotted_path_finds_keys_that_hold_dots() -> None:
    tree = {"drift": {"1.0s": {"mean": 3.0}, "1": {"0s": 4}}, "joint.1": {"mae": 5}}
    assert look_up(tree, "drift.1.0s.mean") == 3.0
    assert look_up(tree, "joint.1.mae") == 5
    assert look_up(tree, "drift.2.0s.mean") is None


def test_a_metric_that_is_not_there_is_refused_naming_the_evaluation() -> None:
    for metric in ("policy.nothing", "policy", "protocol"):
        with pytest.raises(UserError, match=f"--metric {metric}: a has no such number"):
            value(summary([1]), metric, "a")


def test_the_lowest_comes_first() -> None:
    assert ranked({"a": summary([2, 2]), "b": summary([1, 1]), "c": summary([3, 3])}, METRIC) == ["b", "a", "c"]


def test_evaluations_of_different_episodes_are_ranked_by_those_they_share() -> None:
    hard = summary([1.0, 9.0], [0, 1])  # better on episode 0, but it also took a hard one
    easy = summary([2.0], [0])
    assert common_episodes([hard, easy], METRIC) == [0]
    assert ranked({"easy": easy, "hard": hard}, METRIC) == ["hard", "easy"]


def test_a_steady_lead_is_larger_than_the_spread_and_a_lucky_one_is_not() -> None:
    base = np.random.default_rng(1).uniform(1, 9, 8)  # episodes differ far more than the policies do
    steady = lead(summary((base - 0.1).tolist()), summary(base.tolist()), METRIC)
    assert steady is not None
    assert steady.larger_than_spread
    assert (steady.low, steady.mean, steady.high) == pytest.approx((0.1, 0.1, 0.1))
    gains = np.array([8.0, -0.9, -1, -1.1, -0.9, -1, -1, -1])
    lucky = lead(summary((base - gains).tolist()), summary(base.tolist()), METRIC)
    assert lucky is not None
    assert lucky.mean > 0
    assert not lucky.larger_than_spread
    assert lucky.low < 0 < lucky.high


def test_resampling_says_the_same_twice_and_agrees_with_theory() -> None:
    rng = np.random.default_rng(3)
    base, gain = rng.uniform(1, 2, 200), rng.normal(0.5, 1.0, 200)
    one, two = (lead(summary((base - gain).tolist()), summary(base.tolist()), METRIC) for _ in range(2))
    assert one == two
    assert one is not None
    half = 1.96 * gain.std() / np.sqrt(200)
    assert (one.low, one.high) == pytest.approx((gain.mean() - half, gain.mean() + half), abs=0.02)


def test_two_episodes_are_too_few_and_so_is_a_metric_without_episodes() -> None:
    assert lead(summary([1, 1]), summary([2, 2]), METRIC) is None
    with_latency = summary([1, 1, 1], latency={"p50_s": 0.1})
    assert lead(with_latency, with_latency, "latency.p50_s") is None


@pytest.mark.parametrize("key", ["dataset_fingerprint", "protocol", "action_meaning"])
def test_different_questions_have_no_common_winner(key: str) -> None:
    assert incomparable({"a": summary([1]), "b": summary([1])}) is None
    reason = incomparable({"a": summary([1]), "b": summary([1]) | {key: "other"}})
    assert reason == f"a and b differ in {key.replace('_', ' ')}"


def test_only_hyperparameters_that_differ_are_told() -> None:
    one = {
        "training": {"lr": 1e-4, "steps": 20, "output_dir": "a"},
        "model": {"dim_model": 64},
        "wandb": {"tags": ["x"]},
    }
    other = {"training": {"lr": 1e-3, "steps": 20, "output_dir": "b"}, "model": {}, "wandb": {"tags": ["y"]}}
    assert changed({"a": one, "b": other}) == {
        "training.lr": {"a": 1e-4, "b": 1e-3},
        "model.dim_model": {"a": 64, "b": None},
    }
    assert changed({"a": one, "b": one}) == {}
