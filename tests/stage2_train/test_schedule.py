"""The learning rate climbs, falls and ends where it is told to."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2_train.schedule import learning_rate_factor


def cosine(steps: int, warmup_steps: int, floor: float) -> list[float]:
    return [learning_rate_factor(step, steps, warmup_steps, floor, "cosine") for step in range(steps)]


@st.composite
def trainings(draw: st.DrawFn) -> tuple[int, int, float]:
    """Steps, a warm-up that ends before them, and a floor."""
    steps = draw(st.integers(2, 400))
    return steps, draw(st.integers(0, steps - 1)), draw(st.floats(0, 1))


def test_ten_steps_with_a_warm_up_of_four() -> None:
    fall = [0.1 + 0.9 * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(1, 7)]
    assert cosine(10, 4, 0.1) == pytest.approx([0.25, 0.5, 0.75, 1.0, *fall])


def test_none_is_constant_and_knows_no_warm_up() -> None:
    assert {learning_rate_factor(step, 10, 4, 0.1, "none") for step in range(10)} == {1.0}


def test_without_warm_up_the_first_step_is_at_the_full_rate() -> None:
    assert cosine(5, 0, 0.0)[0] == 1.0


def test_training_that_goes_on_stays_at_the_floor() -> None:
    assert learning_rate_factor(250, 100, 10, 0.2, "cosine") == pytest.approx(0.2)


@pytest.mark.parametrize("warmup_steps", [5, 8])
def test_training_no_longer_than_its_warm_up_only_climbs(warmup_steps: int) -> None:
    assert cosine(5, warmup_steps, 0.1) == pytest.approx([(i + 1) / warmup_steps for i in range(5)])


@given(trainings())
def test_rate_climbs_to_the_full_rate_then_falls_to_the_floor(training: tuple[int, int, float]) -> None:
    steps, warmup_steps, floor = training
    rates = cosine(steps, warmup_steps, floor)
    peak = max(warmup_steps - 1, 0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[peak] == 1.0
    assert rates[-1] == pytest.approx(floor)


@given(trainings())
def test_every_step_moves_the_weights_and_none_beyond_the_full_rate(training: tuple[int, int, float]) -> None:
    steps, warmup_steps, floor = training
    rates = cosine(steps, warmup_steps, floor)
    assert all(0 < rate <= 1 for rate in rates[:-1])
    assert min(rates[max(warmup_steps - 1, 0) :]) >= floor - 1e-12


@given(trainings())
def test_rate_never_jumps(training: tuple[int, int, float]) -> None:
    steps, warmup_steps, floor = training
    rates = cosine(steps, warmup_steps, floor)
    fall = max(steps - max(warmup_steps, 1), 1)
    steepest = max(1 / max(warmup_steps, 1), math.pi / 2 * (1 - floor) / fall)
    assert all(abs(b - a) <= steepest + 1e-12 for a, b in itertools.pairwise(rates))
