"""A camera near fps shows every image once: rates, the phase of the grid, and what is counted as avoidable."""

import math

import numpy as np
import pytest

from stage1_convert.align.camera_rate import ImageCounts, count_images, is_near_fps, mid_window_delay_ns, rate_of
from stage1_convert.align.resample import Picks, grid, hold, in_order
from stage1_convert.streams.arrays import Int64

MS = 1_000_000
T0 = 1_700_000_000 * 10**9
LIMIT_NS = 100 * MS


def camera(hz: float, seconds: float, jitter_ms: float = 0, lost_share: float = 0) -> Int64:
    """Return the stamps of a camera with normal jitter that loses images at random, but not the first and last."""
    rng = np.random.default_rng(3)
    count = round(hz * seconds)
    stamps_s = np.sort(np.arange(count) / hz + rng.normal(0, jitter_ms / 1e3, count))
    kept = rng.random(count) >= lost_share
    kept[[0, -1]] = True
    stamps_ns: Int64 = T0 + np.rint(stamps_s[kept] * 1e9).astype(np.int64)
    return stamps_ns


def shown(stamps_ns: Int64, fps: int = 30) -> tuple[Int64, Picks]:
    """Return the ticks of the default grid of a lone camera, and what they show."""
    start_ns = int(stamps_ns[0])
    ticks_ns = grid(start_ns + mid_window_delay_ns(stamps_ns, start_ns, fps), int(stamps_ns[-1]), fps)
    return ticks_ns, in_order(stamps_ns, ticks_ns, LIMIT_NS)


@pytest.mark.parametrize(
    ("hz", "seconds", "jitter_ms", "lost_share"),
    [
        (30, 10, 0, 0),
        (30, 10, 1.5, 0),
        (30, 60, 4, 0),
        (30, 60, 4, 0.03),
        (30, 60, 2, 0.2),
        (29.97, 300, 4, 0),
        (29.5, 60, 2, 0.01),
        (30.5, 60, 2, 0),
        (27.2, 20, 2, 0.02),
        (32.8, 20, 2, 0.02),
    ],
)
def test_every_image_is_shown_once_as_far_as_loss_and_rates_allow(
    hz: float, seconds: float, jitter_ms: float, lost_share: float
) -> None:
    stamps_ns = camera(hz, seconds, jitter_ms, lost_share)
    ticks_ns, (samples, within) = shown(stamps_ns)
    counts = count_images(stamps_ns, samples, ticks_ns, 30)
    tolerated = max(2, 0.01 * len(ticks_ns))
    assert counts.excess <= tolerated
    lost, spare = round(hz * seconds) - len(stamps_ns), len(ticks_ns) - round(hz * len(ticks_ns) / 30)
    assert counts.repeated - lost - max(spare, 0) <= tolerated
    assert counts.passed_over - max(-spare, 0) <= tolerated
    assert counts.lost == pytest.approx(lost, abs=tolerated)
    ages_ns = ticks_ns - stamps_ns[samples]
    assert ((ages_ns <= LIMIT_NS) == within).all()
    assert ages_ns.min() >= 0
    newest, _ = hold(stamps_ns, ticks_ns, LIMIT_NS)
    assert ((ages_ns <= 50 * MS) | (samples == newest)).all()


@pytest.mark.parametrize(("hz", "is_near"), [(26.9, False), (27.1, True), (29.97, True), (32.9, True), (33.1, False)])
def test_a_camera_is_near_fps_within_a_tenth_also_when_it_loses_images(hz: float, is_near: bool) -> None:
    assert is_near_fps(camera(hz, 60, 0.2, 0.3), 30) == is_near


def test_a_rate_is_that_of_a_camera_that_loses_nothing() -> None:
    assert rate_of(camera(29.97, 100, 2, 0.2)) == pytest.approx(29.97, rel=1e-3)
    two_days = np.concatenate([camera(29.97, 100, 2), camera(29.97, 100, 2) + 86_400 * 10**9 + 11 * MS])
    assert rate_of(two_days) == pytest.approx(29.97, rel=1e-4)
    assert rate_of(np.array([T0])) == rate_of(np.array([T0, T0])) == 0


@pytest.mark.parametrize("offset_ms", [0, 3, 17, 33])
def test_the_first_tick_lies_between_two_images_and_never_before_the_start(offset_ms: int) -> None:
    start_ns = T0 + offset_ms * MS
    tick_ns = start_ns + mid_window_delay_ns(camera(30, 10), start_ns, 30)
    assert start_ns <= tick_ns < start_ns + 10**9 / 30
    assert (tick_ns - T0) % (10**9 / 30) == pytest.approx(10**9 / 60, abs=2000)


def test_a_camera_that_drifts_through_all_phases_has_the_phase_of_its_first_image() -> None:
    stamps_ns = camera(30.5, 60)  # 30 beats of two seconds
    assert mid_window_delay_ns(stamps_ns, T0, 30) == pytest.approx(10**9 / 60, abs=1000)


def test_images_behind_the_last_one_are_lost_too() -> None:
    stamps_ns = camera(30, 1)
    ticks_ns = grid(T0 + 16 * MS, int(stamps_ns[-1]) + 90 * MS, 30)
    samples = in_order(stamps_ns, ticks_ns, LIMIT_NS).samples
    assert count_images(stamps_ns, samples, ticks_ns, 30) == ImageCounts(32, 2, 0, 2, 0, False)


def test_a_limit_shorter_than_one_and_a_half_periods_is_no_gap_where_a_newer_image_has_come() -> None:
    ticks_ns = np.arange(5) * 100 * MS
    stamps_ns = np.array([0, 101, 199, 299, 399]) * MS  # the second is late by a millisecond
    samples, within = in_order(stamps_ns, ticks_ns, 100 * MS)
    assert samples.tolist() == [0, 0, 1, 3, 4]  # the image of 199 ms would be 101 ms old at 300 ms
    assert within.all()


def test_of_equal_stamps_the_last_counts() -> None:
    ticks_ns = np.arange(3) * 33 * MS + 10 * MS
    assert in_order(np.array([0, 0, 33, 33, 66]) * MS, ticks_ns, 10**9).samples.tolist() == [1, 3, 4]


def test_counts_explain_a_camera_at_twice_and_at_half_the_rate() -> None:
    for hz, repeated, passed_over in ((60, 0, 300), (15, 150, 0)):
        stamps_ns = camera(hz, 10)
        ticks_ns = grid(T0 + 5 * MS, int(stamps_ns[-1]), 30)
        counts = count_images(stamps_ns, hold(stamps_ns, ticks_ns, LIMIT_NS).samples, ticks_ns, 30)
        assert counts.repeated == pytest.approx(repeated, abs=4)
        assert counts.passed_over == pytest.approx(passed_over, abs=4)
        assert counts.excess <= 1
        assert math.isclose(counts.unavoidable, max(repeated, passed_over), abs_tol=4)
