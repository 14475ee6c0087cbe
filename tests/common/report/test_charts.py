"""Charts put values where they belong, and fit any values into their plots."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.report.charts import (
    MAX_POINTS,
    Line,
    Mark,
    Path,
    Plot,
    Span,
    histogram,
    line_chart,
    sparkline,
    ticks,
    timeline,
)


def points(path: Path) -> list[tuple[float, float]]:
    found = [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path.points)]
    assert len(found) == path.points.count("L") + 1
    return found


def one_line(values: list[float], **options: object) -> Plot:
    return line_chart("title", [Line("a", list(range(len(values))), values, "policy")], **options)  # type: ignore[arg-type]


def test_a_higher_value_is_drawn_higher_and_a_later_one_further_right() -> None:
    plot = one_line([0.0, 5.0, 2.0])
    drawn = points(plot.paths[0])
    assert [x for x, _ in drawn] == [0, 500, 1000]
    assert 0 < drawn[1][1] < drawn[2][1] < drawn[0][1] < 100


def test_labels_lie_where_their_values_lie() -> None:
    plot = one_line([0.0, 5.0], x_unit=" s", y_unit="°", from_zero=True)
    assert [label.text for label in plot.y_labels] == ["0°", "2°", "4°"]
    assert plot.y_labels[0].position == 100
    assert (plot.x_labels[0].text, plot.x_labels[0].position) == ("0 s", 0)
    assert (plot.x_labels[-1].text, plot.x_labels[-1].position) == ("1 s", 100)


def test_values_that_are_not_finite_are_left_out() -> None:
    assert len(points(one_line([0.0, float("nan"), 2.0, float("inf")]).paths[0])) == 2


@pytest.mark.parametrize("values", [[0.0, 0.0], [3.0, 3.0], [1e-9, 2e-9], [-5e6, 5e6]])
def test_flat_tiny_and_large_curves_stay_inside(values: list[float]) -> None:
    line = Line("a", [0, 1], values, "c0")
    for plot in (line_chart("t", [line]), sparkline("t", line)):
        assert all(0 <= x <= 1000 and 0 <= y <= 100 for x, y in points(plot.paths[0]))
        assert plot.y_labels


def test_a_long_curve_is_short_and_keeps_its_extremes() -> None:
    values = np.zeros(100_000)
    values[54_321], values[77_777] = 1.0, -1.0
    drawn = points(sparkline("joint", Line("state", np.arange(100_000), values, "state")).paths[0])
    assert len(drawn) <= MAX_POINTS
    heights = [y for _, y in drawn]
    assert (min(heights), max(heights)) == (2.8, 97.2)
    assert drawn[heights.index(min(heights))][0] == round(1000 * 54_321 / 99_999)


def test_a_sparkline_names_its_extremes_and_draws_its_limit() -> None:
    line = Line("age", [0, 1, 2], [5.0, 20.0, 10.0], "state")
    free, limited = sparkline("joints", line), sparkline("joints", line, "ms", limit=100.0)
    assert [label.text for label in free.y_labels] == ["20", "5"]
    assert free.label == "joints: from 5 to 20"
    assert free.limit is None
    assert [label.text for label in limited.y_labels] == ["100", "0"]
    assert limited.label == "joints: from 5 to 20 ms, limit 100 ms"
    assert limited.limit is not None
    assert limited.limit < min(y for _, y in points(limited.paths[0]))


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))  # smaller sizes are within the rounding of low
def test_ticks_are_round_few_and_inside(low: float, size: float) -> None:
    found = ticks(low, low + size)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-6 * size <= tick <= low + size * (1 + 1e-6) for tick in found)


def test_a_histogram_counts_every_value_and_lifts_labels_that_would_collide() -> None:
    plot = histogram("t", [1.0] * 6 + [5.0] * 3, " ms", [Mark("p50", 1.0), Mark("p95", 4.9), Mark("p99", 5.0)])
    assert [bar.height for bar in plot.bars] == [100, 50]
    assert [bar.y + bar.height for bar in plot.bars] == [100, 100]
    assert [(mark.text, mark.row) for mark in plot.marks] == [("p50", 0), ("p95", 0), ("p99", 1)]


def test_a_rare_value_of_a_histogram_stays_visible_and_equal_values_have_a_width() -> None:
    plot = histogram("t", [1.0] * 1000 + [5.0], " ms", from_zero=True)
    assert [bar.height for bar in plot.bars] == [100, 1]
    assert plot.bars[0].x > 0
    assert plot.x_labels[0] == (0, "0 ms", 0)
    (bar,) = histogram("t", [0.0] * 9, " ms", from_zero=True).bars
    assert (bar.x, bar.height) == (0, 100)


def test_a_timeline_keeps_a_short_span_visible() -> None:
    plot = timeline("bag", [Span(0, 1, "idle"), Span(0.5, 0.5001, "gap")], "0 s", "9 s")
    assert [(bar.kind, bar.x, bar.width) for bar in plot.bars] == [("idle", 0, 1000), ("gap", 500, 2)]
    assert [(label.position, label.text) for label in plot.x_labels] == [(0, "0 s"), (100, "9 s")]
