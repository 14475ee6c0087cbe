"""The grid, and the rules by which a tick finds its sample."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stage1_convert.align.resample import RULES, grid, hold, in_order, linear, long_pauses, nearest
from stage1_convert.streams.arrays import Int64
from tests.stage1_convert.reference import Sample, next_unseen

MS = 1_000_000
T0 = 1_700_000_000 * 10**9
stamps = st.lists(st.integers(0, 2_000 * MS), min_size=1, max_size=60).map(lambda x: np.sort(np.array(x, np.int64)))
ticks = st.lists(st.integers(-100 * MS, 2_100 * MS), min_size=1, max_size=40).map(lambda x: np.array(x, np.int64))
limits = st.integers(0, 200 * MS)


@given(st.integers(0, 2**60), st.integers(0, 10**10), st.integers(1, 240))
def test_the_grid_is_exact_and_complete(start_ns: int, span_ns: int, fps: int) -> None:
    ticks_ns = grid(start_ns, start_ns + span_ns, fps)
    assert ticks_ns.tolist() == [start_ns + k * 10**9 // fps for k in range(len(ticks_ns))]
    assert ticks_ns[-1] <= start_ns + span_ns < start_ns + len(ticks_ns) * 10**9 // fps


def test_a_grid_that_ends_before_it_starts_is_empty() -> None:
    assert len(grid(T0, T0 - 1, 30)) == 0


@given(st.lists(st.tuples(st.integers(0, 10**11), st.integers(0, 5 * 10**10)), max_size=4), st.integers(1, 60))
def test_the_grid_without_its_pauses_is_the_grid_with_its_pauses_cut_out(
    pauses: list[tuple[int, int]], fps: int
) -> None:
    pauses_ns = sorted((T0 + start_ns, T0 + start_ns + length_ns) for start_ns, length_ns in pauses)
    whole, cut = (grid(T0, T0 + 10**11, fps, within) for within in ((), pauses_ns))
    second_ns = 10**9  # the grid goes on at the next whole second
    expected = [
        tick
        for tick in whole.tolist()
        if not any(start <= tick < T0 - (T0 - stop) // second_ns * second_ns for start, stop in pauses_ns)
    ]
    assert cut.tolist() == expected


def test_only_the_middle_of_a_long_pause_is_left_out() -> None:
    hour_ns = 3600 * 10**9
    assert long_pauses([np.array([T0, T0 + hour_ns])]) == []
    day = np.array([T0, T0 + 24 * hour_ns])
    assert long_pauses([day, day]) == [(T0 + 120 * 10**9, T0 + 24 * hour_ns - 120 * 10**9)] * 2


@given(stamps, ticks, limits)
def test_hold_takes_the_newest_sample_and_never_the_future(stamps_ns: Int64, ticks_ns: Int64, limit_ns: int) -> None:
    index, good = hold(stamps_ns, ticks_ns, limit_ns)
    for tick, at, fine in zip(ticks_ns, index, good, strict=True):
        past = [k for k, stamp in enumerate(stamps_ns) if stamp <= tick]
        assert fine == bool(past and tick - stamps_ns[past[-1]] <= limit_ns)
        if fine:
            assert at == past[-1]


@given(stamps, st.integers(10, 200))
def test_in_order_takes_the_next_image_that_no_tick_has_shown(stamps_ns: Int64, fps: int) -> None:
    ticks_ns = grid(int(stamps_ns[0]), int(stamps_ns[-1]) + 200 * MS, fps)
    index, _ = in_order(stamps_ns, ticks_ns, 10**9)
    samples = [Sample(stamp, None) for stamp in stamps_ns.tolist()]
    seen: list[Sample] = []
    for tick in ticks_ns.tolist():
        found = next_unseen(samples, tick, seen, fps)
        seen += [found] if found else []
    assert stamps_ns[index].tolist() == [sample.stamp_ns for sample in seen]


@given(stamps, ticks, limits)
def test_nearest_takes_the_closest_sample_within_its_tolerance(
    stamps_ns: Int64, ticks_ns: Int64, limit_ns: int
) -> None:
    index, good = nearest(stamps_ns, ticks_ns, limit_ns)
    off = np.abs(stamps_ns[None] - ticks_ns[:, None]).min(axis=1)
    np.testing.assert_array_equal(good, off <= limit_ns)
    np.testing.assert_array_equal(np.abs(stamps_ns[index] - ticks_ns), off)


@given(stamps, ticks, limits)
def test_linear_needs_a_sample_on_either_side_within_its_tolerance(
    stamps_ns: Int64, ticks_ns: Int64, limit_ns: int
) -> None:
    index, good = linear(stamps_ns, ticks_ns, limit_ns)
    for tick, at, fine in zip(ticks_ns, index, good, strict=True):
        if fine and stamps_ns[at] != tick:
            assert tick - limit_ns <= stamps_ns[at] < tick < stamps_ns[at + 1] <= tick + limit_ns


@given(stamps, limits, st.sampled_from(["hold", "nearest", "in_order"]))
def test_later_ticks_never_show_earlier_samples(stamps_ns: Int64, limit_ns: int, rule: str) -> None:
    index, _ = RULES[rule](stamps_ns, np.arange(0, 2_000 * MS, 33 * MS), limit_ns)
    assert (np.diff(index) >= 0).all()


def test_the_earlier_of_two_equally_near_samples_is_taken() -> None:
    index, good = nearest(np.array([0, 10 * MS]), np.array([5 * MS]), 5 * MS)
    assert (index.tolist(), good.tolist()) == ([0], [True])
