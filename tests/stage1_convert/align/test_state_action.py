"""Joint order, signs, wrapping and actions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stage1_convert.align import state_action
from stage1_convert.streams.arrays import Float64

angles = st.floats(-20, 20, allow_nan=False)
paths = st.integers(1, 30).flatmap(lambda n: arrays(np.float64, (n, 3), elements=angles))


@given(arrays(np.float64, 20, elements=st.floats(-1e4, 1e4)))
def test_wrapped_angles_lie_in_the_half_open_turn_and_mean_the_same(values: Float64) -> None:
    wrapped = state_action.wrap(values)
    assert (wrapped > -np.pi).all()
    assert (wrapped <= np.pi).all()
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * values), atol=1e-9)


def test_pi_stays_and_minus_pi_becomes_pi() -> None:
    np.testing.assert_array_equal(state_action.wrap(np.array([np.pi, -np.pi, 0.0])), [np.pi, np.pi, 0.0])


@given(paths)
def test_deltas_add_up_to_the_path_modulo_a_turn(states: Float64) -> None:
    actions = state_action.to_actions(states, "delta")
    rebuilt = states[0] + np.cumsum(actions, axis=0)
    np.testing.assert_allclose(np.exp(1j * rebuilt[:-1]), np.exp(1j * states[1:]), atol=1e-9)
    assert (np.abs(actions) <= np.pi).all()


@given(paths)
def test_the_last_action_of_an_episode_stands_still(states: Float64) -> None:
    assert not state_action.to_actions(states, "delta")[-1].any()
    np.testing.assert_array_equal(state_action.to_actions(states, "next_position")[-1], states[-1])


@given(paths)
def test_deltas_are_the_same_whether_states_are_wrapped_or_not(states: Float64) -> None:
    plain = state_action.to_actions(state_action.to_states(states, [1.0] * 3, False), "delta")
    wrapped = state_action.to_actions(state_action.to_states(states, [1.0] * 3, True), "delta")
    np.testing.assert_allclose(np.exp(1j * plain), np.exp(1j * wrapped), atol=1e-9)


def test_signs_are_multiplied_before_wrapping() -> None:
    states = state_action.to_states(np.array([[4.0, 4.0]]), [1.0, -1.0], True)
    np.testing.assert_allclose(states, [[4 - 2 * np.pi, 2 * np.pi - 4]])


def test_a_field_is_no_angle() -> None:
    opening = np.array([[0.0], [4.0], [1.0]])
    expected = {"delta": [4.0, -3.0, 0.0], "next_position": [4.0, 1.0, 1.0]}
    for meaning, values in expected.items():
        assert state_action.to_actions(opening, meaning, are_angles=False)[:, 0].tolist() == values
