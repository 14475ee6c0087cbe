"""What becomes an episode: gaps never close up, no frame is lost without a reason, and what was asked for is done."""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cli.command import UserError
from common.cli.config import load
from stage1_convert.align.episodes import EpisodePlan, choose, make_plan
from stage1_convert.align.split import runs
from stage1_convert.config import Config
from stage1_convert.streams.clock import Clock

MS = 1_000_000
T0 = 1_700_000_000 * 10**9
NO_MARKERS = np.zeros(0, np.int64)


def clock(stamps_ns: npt.ArrayLike) -> Clock:
    return Clock(np.asarray(stamps_ns, np.int64), "header", "", None)


def steady(seconds: float, hz: int = 100, start_ns: int = T0) -> npt.NDArray[np.int64]:
    return start_ns + np.arange(round(seconds * hz), dtype=np.int64) * 10**9 // hz


def moving(count: int, hz: int = 100) -> npt.NDArray[np.float64]:
    """Angles of a joint that turns at 0.5 rad/s through pi, again and again."""
    turned: npt.NDArray[np.float64] = np.remainder(np.arange(count)[:, None] * 0.5 / hz, 2 * np.pi) - np.pi
    return turned


def planned(
    joints_ns: npt.NDArray[np.int64],
    images_ns: npt.NDArray[np.int64],
    *overrides: str,
    angles: npt.NDArray[np.float64] | None = None,
    markers_ns: npt.NDArray[np.int64] = NO_MARKERS,
) -> EpisodePlan:
    clocks = {"joints": clock(joints_ns), "color": clock(images_ns)}
    angles = moving(len(joints_ns)) if angles is None else angles
    return make_plan(clocks, {"joints": angles}, {}, markers_ns, load(Config, None, overrides))


def spans(plan: EpisodePlan) -> list[tuple[int, int, str]]:
    return [(span.start, span.stop, span.reason) for span in plan.episodes]


gapped = st.lists(st.integers(1, 400), min_size=10, max_size=80).map(
    lambda steps: T0 + np.cumsum(np.array(steps, np.int64)) * MS
)
choices = st.sampled_from(
    [
        (),
        ("data.on_gap=drop",),
        ("data.max_episode_s=1",),
        ("data.trim_idle_s=0.2",),
        ("data.split_pause_s=0.3",),
        ("data.split_pause_s=0.3", "data.trim_idle_s=0.1", "data.max_episode_s=2", "data.on_gap=drop"),
        ("data.resample=nearest",),
    ]
)


@settings(deadline=None)
@given(gapped, gapped, choices, st.lists(st.integers(0, 20_000), max_size=3), st.randoms())
def test_every_frame_is_in_one_episode_or_left_out_for_a_reason_or_in_a_gap(
    joints_ns: Any, images_ns: Any, overrides: tuple[str, ...], markers_ms: list[int], random: Any
) -> None:
    angles = np.cumsum([[random.choice([0.0, 0.0, 0.0, 0.2])] for _ in joints_ns], axis=0)
    markers_ns = T0 + np.array(sorted(markers_ms), np.int64) * MS
    try:
        plan = planned(joints_ns, images_ns, "data.min_episode_s=0.1", *overrides, angles=angles, markers_ns=markers_ns)
    except UserError as error:
        assert "too short" in str(error) or "never overlap" in str(error)
        return
    taken = np.zeros(len(plan.ticks_ns), int)
    for span in (*plan.episodes, *plan.left_out):
        taken[span.start : span.stop] += 1
        assert span.frames > 0
    for gap in plan.gaps:
        start = int(np.searchsorted(plan.ticks_ns, gap.start_ns))
        taken[start : start + gap.frames] += 1
    assert (taken == 1).all()
    limit_ms = 50 if "data.resample=nearest" in overrides else 100
    for span in plan.episodes:
        ticks_ns = plan.ticks_ns[span.start : span.stop]
        assert np.array_equal(
            ticks_ns - ticks_ns[0],
            [((span.start + k) * 10**9 // 30) - (span.start * 10**9 // 30) for k in range(span.frames)],
        )
        for name, stamps_ns in (("joints", joints_ns), ("color", images_ns)):
            ages_ns = ticks_ns - stamps_ns[plan.picks[name][span.start : span.stop]]
            assert (np.abs(ages_ns) <= limit_ms * MS).all()
            if limit_ms == 100:
                assert (ages_ns >= 0).all(), "hold never looks ahead"


def test_a_gap_splits_and_the_frames_in_it_are_told() -> None:
    images_ns = np.delete(steady(4, 30), np.s_[50:65])
    plan = planned(steady(4), images_ns)
    (first, second), (gap,) = plan.episodes, plan.gaps
    assert (first.reason, second.reason) == ("start", "gap")
    assert first.stop + gap.frames == second.start
    assert gap.streams == ["color"]


def test_drop_keeps_only_the_longest_piece_between_gaps() -> None:
    images_ns = np.delete(steady(4, 30), np.s_[50:65])
    split, dropped = (planned(steady(4), images_ns, f"data.on_gap={rule}") for rule in ("split", "drop"))
    assert spans(dropped) == [spans(split)[1]]
    assert [tuple(span) for span in dropped.left_out] == [(*spans(split)[0][:2], "shorter_piece")]


def test_long_pieces_are_cut_evenly() -> None:
    plan = planned(steady(10), steady(10, 30), "data.max_episode_s=4.9")
    frames = [span.frames for span in plan.episodes]
    assert (sum(frames), len(frames)) == (len(plan.ticks_ns), 3)
    assert max(frames) - min(frames) <= 1
    assert [span.reason for span in plan.episodes] == ["start", "max_episode_s", "max_episode_s"]
    assert all(one.stop == two.start for one, two in itertools.pairwise(plan.episodes))


def test_a_marker_starts_an_episode_with_the_first_frame_that_is_not_before_it() -> None:
    plan = planned(
        steady(4), steady(4, 30), "data.grid_delay_ms=0", markers_ns=T0 + np.array([-5, 10**9 + 1, 2 * 10**9])
    )
    assert [span[0] for span in spans(plan)] == [0, 31, 60]
    assert [span.reason for span in plan.episodes] == ["start", "marker", "marker"]


def resting_between(start_s: float, stop_s: float) -> npt.NDArray[np.float64]:
    """Angles at 100 Hz over 6 s, with a rest."""
    rate = np.full(600, 0.005)
    rate[round(start_s * 100) : round(stop_s * 100)] = 0
    return np.cumsum(rate)[:, None]


def test_a_pause_ends_an_episode_and_is_left_out() -> None:
    angles = resting_between(2, 4)
    plan = planned(steady(6), steady(6, 30), "data.split_pause_s=1", angles=angles)
    first, second = plan.episodes
    (pause,) = plan.left_out
    assert (pause.reason, second.reason) == ("pause", "pause")
    assert (first.stop, second.start) == (pause.start, pause.stop)
    assert pause.start == pytest.approx(60, abs=2)
    assert pause.stop == pytest.approx(120, abs=2)
    assert len(planned(steady(6), steady(6, 30), "data.split_pause_s=3", angles=angles).episodes) == 1


@pytest.mark.parametrize(("rest", "cut_from"), [((0, 2), "start"), ((4, 6), "end")])
def test_idle_ends_are_cut_to_what_was_asked_for(rest: tuple[float, float], cut_from: str) -> None:
    plan = planned(steady(6), steady(6, 30), "data.trim_idle_s=0.5", angles=resting_between(*rest))
    (episode,), (idle,) = plan.episodes, plan.left_out
    assert idle.reason == "idle"
    assert idle.frames == pytest.approx(45, abs=2)
    assert (idle.start == 0) == (cut_from == "start")
    assert episode.frames + idle.frames == len(plan.ticks_ns)


def test_an_arm_that_never_moves_leaves_nothing_to_learn() -> None:
    with pytest.raises(UserError, match=r"too short.*frames of rest are left out"):
        planned(steady(6), steady(6, 30), "data.split_pause_s=1", angles=np.zeros((600, 1)))


def test_a_camera_that_is_too_slow_is_named_with_the_settings_that_convert_it() -> None:
    joints_ns, images_ns = steady(6), steady(6, 5)
    with pytest.raises(UserError, match="color publishes at 5 Hz, every 200 ms, and its samples count for 100 ms") as e:
        planned(joints_ns, images_ns)
    assert "set data.max_age_ms_by_stream={color: 500} and data.fps=5" in str(e.value)
    plan = planned(joints_ns, images_ns, "data.max_age_ms_by_stream={color: 500}", "data.fps=5")
    assert [len(np.unique(plan.shown("color"))), len(plan.gaps)] == [len(plan.ticks_ns), 0]


def test_a_bag_that_is_short_and_not_slow_names_what_to_look_at() -> None:
    with pytest.raises(UserError, match=r"has 9 frames at 30 fps, 15 are needed; look at .*data\.min_episode_s"):
        planned(steady(0.3), steady(0.32, 30))


@pytest.mark.parametrize("apart_s", [7200, 3 * 86_400, 50 * 365 * 86_400])
def test_recordings_of_different_days_in_one_bag_are_episodes(apart_s: int) -> None:
    days_ns = (T0, T0 + apart_s * 10**9)
    joints_ns = np.concatenate([steady(3, start_ns=day_ns) for day_ns in days_ns])
    images_ns = np.concatenate([steady(3, 30, day_ns + 9 * MS) for day_ns in days_ns])
    plan = planned(joints_ns, images_ns)
    alone = planned(steady(3), steady(3, 30, T0 + 9 * MS)).episodes
    assert [span.reason for span in plan.episodes] == ["start", "gap"]
    assert all(abs(span.frames - alone[0].frames) <= 4 for span in plan.episodes), "its end is held for max_age_ms"
    for span, day_ns in zip(plan.episodes, days_ns, strict=True):
        assert day_ns <= plan.ticks_ns[span.start] <= plan.ticks_ns[span.stop - 1] < day_ns + 3.2e9
    assert len(plan.ticks_ns) < 5 * 60 * 30, "the days between cost no memory"


def test_a_delayed_grid_begins_that_much_later_and_keeps_its_distance() -> None:
    camera_ns = steady(2.0, hz=30) + np.random.default_rng(1).integers(-4_000_000, 4_000_000, 60)
    plain, delayed = (
        planned(steady(2.0), camera_ns, "data.resample=hold", f"data.grid_delay_ms={delay_ms}") for delay_ms in (0, 16)
    )
    assert delayed.ticks_ns[0] - plain.ticks_ns[0] == delayed.delay_ns == 16_000_000
    assert len(np.unique(plain.shown("color"))) < len(plain.picks["color"])  # jitter repeats images
    assert len(np.unique(delayed.shown("color"))) == len(delayed.picks["color"])


@pytest.mark.parametrize(
    ("hz", "overrides", "rule", "is_mid_window"),
    [
        (30, (), "in_order", True),
        (28, (), "in_order", True),
        (60, (), "hold", False),
        (15, (), "hold", False),
        (15, ("data.fps=15",), "in_order", True),
        (30, ("data.resample=hold",), "hold", True),
        (30, ("data.resample=nearest",), "nearest", False),
        (30, ("data.resample=linear",), "nearest", False),
        (30, ("data.resample_by_stream={color: hold}",), "hold", True),
        (60, ("data.resample=in_order",), "in_order", False),
    ],
)
def test_the_rate_of_a_camera_decides_its_rule_and_the_place_of_the_grid(
    hz: int, overrides: tuple[str, ...], rule: str, is_mid_window: bool
) -> None:
    joints_ns = steady(4)
    plan = planned(joints_ns, steady(4, hz, T0 + 3 * MS), *overrides)
    assert plan.rules["color"] == rule
    fps = 15 if "data.fps=15" in overrides else 30
    assert (plan.delay_ns > 0) == is_mid_window
    assert plan.ticks_ns[0] == T0 + 3 * MS + plan.delay_ns
    if hz == fps:
        assert not is_mid_window or plan.delay_ns == pytest.approx(10**9 / fps / 2, abs=2000)
    np.testing.assert_array_equal(np.diff(plan.ticks_ns) // 1000, np.full(len(plan.ticks_ns) - 1, 10**6 // fps))


def test_the_second_of_two_cameras_sets_the_grid_where_the_first_is_far_from_fps() -> None:
    config = load(Config, None, ["data.cameras={fast: /fast, color: /color}"])
    clocks = {"joints": clock(steady(4)), "fast": clock(steady(4, 90)), "color": clock(steady(4, 30, T0 + 9 * MS))}
    plan = make_plan(clocks, {"joints": moving(400)}, {}, NO_MARKERS, config)
    assert plan.rules == {"joints": "hold", "fast": "hold", "color": "in_order"}
    assert (plan.ticks_ns[0] - T0) / MS == pytest.approx(9 + 16.667, abs=0.01)


def test_chosen_episodes_stay_and_the_others_are_left_out() -> None:
    plan = planned(steady(6), np.delete(steady(6, 30), [*range(50, 65), *range(110, 125)]))
    first, second, third = plan.episodes
    chosen = choose(plan, [2, 0, 2])
    assert chosen.episodes == [first, third]
    assert [span for span in chosen.left_out if span not in plan.left_out] == [second._replace(reason="not_chosen")]
    with pytest.raises(UserError, match=r"data\.episodes asks for its episode 3; it has 0 to 2"):
        choose(plan, [1, 3])


@given(st.lists(st.booleans(), max_size=30))
def test_runs_are_exactly_the_true_stretches(values: list[bool]) -> None:
    good = np.array(values, np.bool_)
    pieces = runs(good)
    rebuilt = np.zeros(len(good), np.bool_)
    for start, stop in pieces:
        assert start < stop
        rebuilt[start:stop] = True
    np.testing.assert_array_equal(rebuilt, good)
    assert all(one[1] < two[0] for one, two in itertools.pairwise(pieces))
