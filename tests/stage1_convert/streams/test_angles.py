"""What lies between two angles: along the shortest arc."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stage1_convert.streams.angles import interpolate
from stage1_convert.streams.arrays import Int64

MS = 1_000_000
stamps = st.lists(st.integers(0, 2_000 * MS), min_size=1, max_size=60).map(lambda x: np.sort(np.array(x, np.int64)))


@given(stamps, st.floats(-3, 3), st.floats(-1.5, 1.5))  # less than half a turn in the two seconds
def test_interpolation_follows_a_steady_turn_across_pi(stamps_ns: Int64, offset: float, speed: float) -> None:
    turn = offset + speed * stamps_ns / 1e9
    angles = np.remainder(turn + np.pi, 2 * np.pi)[:, None] - np.pi
    ticks_ns = np.arange(stamps_ns[0], stamps_ns[-1] + 1, 7 * MS)
    left = np.searchsorted(stamps_ns, ticks_ns, side="right") - 1
    found = interpolate(stamps_ns, angles, ticks_ns, left, np.array([True]))[:, 0]
    expected = offset + speed * ticks_ns / 1e9
    np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * expected), atol=1e-9)


def test_interpolation_halfway_between_two_angles_beside_pi_is_pi_and_not_zero() -> None:
    ends_ns, angles = np.array([0, 100 * MS]), np.array([[3.1, -3.1, 1.0], [-3.1, 3.1, 2.0]])
    found = interpolate(ends_ns, angles, np.array([50 * MS]), np.array([0]), np.full(3, True))
    np.testing.assert_allclose(found, [[np.pi, -np.pi, 1.5]])


def test_numbers_that_are_no_angles_are_interpolated_as_they_are() -> None:
    ends_ns, numbers = np.array([0, 100 * MS]), np.array([[3.1, 3.1], [-3.1, -3.1]])
    found = interpolate(ends_ns, numbers, np.array([50 * MS]), np.array([0]), np.array([True, False]))
    np.testing.assert_allclose(found, [[np.pi, 0.0]], atol=1e-12)
