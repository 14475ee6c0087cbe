"""Ranges that do not suit what a camera measured give a warning."""

import pytest

from common.cli.config import load
from stage1_convert.config import Config
from stage1_convert.images.range_use import range_warnings
from stage1_convert.images.shades import Measured


@pytest.mark.parametrize(
    ("is_depth", "images", "range_of_gray", "words"),
    [
        (True, [(1, 60_000, 0.9), (1, 60_000, 0.2)], "", "55% of the measured pixels lie outside data.depth_range_m=["),
        (True, [(1, 60_000, 0.9), (1, 60_000, 0.1)], "", ""),
        (True, [(5, 5, 0)], "", ""),
        (False, [(9, 20_000, 0.6), (0, 60_000, 0.7)], "[0, 20000]", "and are clipped: they are between 0 and 60000"),
        (False, [(0, 60_000, 0.4)], "[0, 40000]", ""),
        (False, [(0, 2000, 0), (9, 3750, 0)], "[0, 65535]", "all pixels are between 0 and 3750 of data.mono16_range="),
        (False, [(0, 3750, 0)], "[0, 4095]", ""),
    ],
)
def test_a_range_that_does_not_fit_the_camera_gives_a_warning(
    is_depth: bool, images: list[tuple[float, float, float]], range_of_gray: str, words: str
) -> None:
    settings = [f"data.mono16_range={{color: {range_of_gray}}}"] if range_of_gray else []
    measured = [Measured(*image) for image in images]
    found = list(range_warnings({("color", is_depth): measured}, load(Config, None, settings).data))
    assert len(found) == bool(words)
    assert all(warning.startswith("camera color: ") and words in warning for warning in found)
