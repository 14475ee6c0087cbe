"""Charts put values where they belong, and an image that is drawn is one."""

import base64
import re
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage3_eval.report.charts import Line, Mark, heat_map, histogram, image, line_chart, ticks


def decode(url: str) -> np.ndarray:
    data = base64.b64decode(url.split(",", 1)[1])
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return np.asarray(pixels)


def test_a_higher_value_is_drawn_higher_and_later_further_right() -> None:
    svg = ET.fromstring(line_chart("t", [Line("a", [0, 1, 2], [0.0, 5.0, 2.0], "policy")], "s", "deg"))
    assert svg.get("role") == "img"
    (polyline,) = [node for node in svg if node.tag == "polyline"]
    points = [tuple(map(float, point.split(","))) for point in polyline.get("points", "").split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[1][1] < points[2][1] < points[0][1]


def test_what_is_not_a_number_is_left_out() -> None:
    svg = line_chart("t", [Line("a", [0, 1, 2], [0.0, float("nan"), 2.0], "policy")], "s", "")
    assert "nan" not in svg
    assert len(re.findall(r"[\d.]+,[\d.]+", ET.fromstring(svg).findall("polyline")[0].get("points", ""))) == 2


@pytest.mark.parametrize("values", [[0.0, 0.0], [3.0, 3.0], [1e-9, 2e-9], [-5e6, 5e6]])
def test_flat_tiny_and_large_curves_are_drawn(values: list[float]) -> None:
    ET.fromstring(line_chart("<t> & 'x'", [Line("a", [0, 1], values, "c0")], "a<b", "&"))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_few_and_inside(low: float, size: float) -> None:
    found = ticks(low, low + size)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-6 * size <= tick <= low + size * (1 + 1e-6) for tick in found)


def test_a_histogram_counts_every_value() -> None:
    svg = ET.fromstring(histogram("t", [1.0] * 6 + [5.0] * 3, "ms", [Mark("p50", 1.0), Mark("p99", 5.0)]))
    bars = [float(node.get("height", "0")) for node in svg if node.get("class") == "bar"]
    assert len(bars) == 2
    assert bars[0] == pytest.approx(2 * bars[1], rel=0.01)
    assert [node.text for node in svg if node.get("text-anchor") == "middle"][-2:] == ["p50", "p99"]


def test_a_heat_map_has_a_pixel_per_joint_and_frame_brighter_where_it_errs_more() -> None:
    values = np.zeros((3, 20))
    values[1, 7] = 2.0
    values[2, 3] = 9.0  # more than the top
    pixels = decode(heat_map(values, top=2.0)).sum(axis=2)
    assert pixels.shape == (3, 20)
    assert pixels[1, 7] == pixels[2, 3] == pixels.max()
    assert (np.delete(pixels[0], 0) == pixels.min()).all()


def test_a_image_keeps_its_colors_and_is_made_no_larger() -> None:
    red = np.zeros((40, 80, 3), np.uint8)
    red[..., 0] = 255
    assert decode(image(red, 200)).shape == (40, 80, 3)
    small = decode(image(red, 20))
    assert small.shape == (10, 20, 3)
    assert small[..., 0].min() > 240
    assert small[..., 1:].max() < 20
