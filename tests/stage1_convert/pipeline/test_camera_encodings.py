"""Whole conversions of what cameras really send: channels without names, and ranges that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.stage1_convert.conversion import convert_one, jpegs, reason, run
from tests.stage1_convert.recording import (
    RAW_TOPIC,
    Recording,
    cell,
    decode,
    draw,
    number_in,
    raw_image,
    with_image_messages,
)


def test_channels_without_names_are_refused_until_the_setting_names_them(tmp_path: Path) -> None:
    recording = with_image_messages(
        cell(0.8, topic=RAW_TOPIC), lambda number, ns: raw_image(ns, draw(number)[..., ::-1], "8UC3")
    )
    words = "'8UC3' does not name its channels: say by data.encodings={color: bgr8}"
    assert words in reason(tmp_path / "refused", recording)
    dataset = convert_one(tmp_path, recording, "data.encodings={color: bgr8}", "data.storage=png")
    images = [decode(data) for data in jpegs(dataset)]
    assert all(np.array_equal(image, draw(number_in(image))) for image in images)


def of_16_bits(values: npt.NDArray[Any], encoding: str) -> Recording:
    def message(_: int, stamp_ns: int) -> Any:
        found = raw_image(stamp_ns, values.astype("<u2").view(np.uint8)[..., None], encoding)
        found.width = values.shape[1]
        return found

    return with_image_messages(cell(0.8, topic=RAW_TOPIC), message)


RAMP = np.tile(np.linspace(0, 60_000, 64), (48, 1)).astype(np.uint16)


@pytest.mark.parametrize(
    ("values", "encoding", "settings", "words"),
    [
        (RAMP, "16UC1", [], ["lie outside data.depth_range_m=[0.0, 4.0]", "data.encodings={color: mono16}"]),
        (RAMP, "16UC1", ["data.depth_range_m=[0, 60]"], []),
        (RAMP, "mono16", [], []),
        (RAMP, "16UC1", ["data.encodings={color: mono16}"], []),
        (
            RAMP,
            "mono16",
            ["data.mono16_range={color: [0, 20000]}"],
            ["66% of the pixels lie outside data.mono16_range={color: [0, 20000]}", "between 0 and 60000"],
        ),
        (RAMP, "mono16", ["data.mono16_range={color: [0, 40000]}"], []),
        (RAMP // 16, "mono16", [], ["all pixels are between 0 and 3750 of data.mono16_range={color: [0, 65535]}"]),
        (RAMP // 16, "mono16", ["data.mono16_range={color: [0, 4095]}"], []),
        (RAMP * 0, "16UC1", [], []),
    ],
)
def test_a_range_that_does_not_fit_the_camera_gives_a_warning(
    tmp_path: Path, values: npt.NDArray[Any], encoding: str, settings: list[str], words: list[str]
) -> None:
    of_16_bits(values, encoding).write(tmp_path / "src" / "bag")
    summary = run(tmp_path / "src", tmp_path / "out", *settings)
    assert summary.refused == []
    assert len(summary.warnings) == bool(words)
    for _, warning in summary.warnings:
        assert warning.startswith("camera color: ")
        assert all(word in warning for word in words)
