"""Whole conversions of what cameras really send: colors, ranges, warnings, and refusals that name the setting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from stage1_convert.pipeline.convert import RefusedError
from tests.stage1_convert.conversion import convert_one, jpegs, report, run
from tests.stage1_convert.recording import (
    COMPRESSED,
    IMAGE,
    JPEG_TOPIC,
    RAW_TOPIC,
    Image,
    Recording,
    cell,
    compressed_image,
    decode,
    draw,
    jpeg,
    number_in,
    raw_image,
    stamp_of,
)

PNG = "data.storage=png"


def recorded(make: Callable[[int, int], Any], seconds: float = 0.8) -> Recording:
    """Return a recording whose camera sends make(number, stamp_ns)."""
    recording = cell(seconds=seconds)
    for number, said in enumerate(recording.images):
        message = make(number, stamp_of(said))
        topic, kind = (RAW_TOPIC, IMAGE) if hasattr(message, "encoding") else (JPEG_TOPIC, COMPRESSED)
        recording.images[number] = said._replace(message=message, topic=topic, type=kind)
    return recording


def stored(dataset: Path) -> list[Image]:
    return [decode(data) for data in jpegs(dataset)]


def swapped(image: Image) -> Image:
    return np.ascontiguousarray(image[..., ::-1])


def test_channels_without_names_are_refused_until_the_setting_names_them(tmp_path: Path) -> None:
    recording = recorded(lambda number, ns: raw_image(ns, swapped(draw(number)), "8UC3"))
    with pytest.raises(RefusedError, match=r"'8UC3' does not name its channels: say by data.encodings={color: bgr8}"):
        convert_one(tmp_path / "refused", recording)
    images = stored(convert_one(tmp_path, recording, "data.encodings={color: bgr8}", PNG))
    assert all(np.array_equal(image, draw(number_in(image))) for image in images)


def test_jpegs_with_red_and_blue_swapped_are_mended_and_others_stay_as_they_are(tmp_path: Path) -> None:
    recording = recorded(lambda number, ns: compressed_image(ns, jpeg(swapped(draw(number)))))
    as_recorded = jpegs(convert_one(tmp_path / "as_recorded", recording))
    mended = convert_one(tmp_path / "mended", recording, "data.encodings={color: bgr8}", PNG)
    for image, data in zip(stored(mended), as_recorded, strict=True):
        assert np.array_equal(image, swapped(decode(data)))


def test_a_mosaic_in_png_files_gives_exact_colors(tmp_path: Path) -> None:
    tile = np.tile(np.array([[200, 10], [10, 60]], np.uint8), (24, 32))
    data = cv2.imencode(".png", tile)[1].tobytes()
    recording = recorded(lambda _, ns: compressed_image(ns, data, "bayer_rggb8; png compressed "))
    for image in stored(convert_one(tmp_path, recording, PNG)):
        assert np.array_equal(image, np.broadcast_to((200, 10, 60), (48, 64, 3)))


def test_nv12_gives_its_images(tmp_path: Path) -> None:
    def nv12(number: int, stamp_ns: int) -> Any:
        planar = np.asarray(cv2.cvtColor(draw(number), cv2.COLOR_RGB2YUV_I420), np.uint8)
        chroma = planar[48:].reshape(2, -1).T.reshape(24, 64)  # U and V side by side
        message = raw_image(stamp_ns, np.concatenate([planar[:48], chroma])[..., None], "nv12")
        message.height = 48
        return message

    images = stored(convert_one(tmp_path, recorded(nv12), PNG))
    for image in images:
        assert np.abs(image[10:].astype(int) - draw(number_in(image))[10:]).mean() < 4


def of_16_bits(values: npt.NDArray[Any], encoding: str) -> Recording:
    def message(_: int, stamp_ns: int) -> Any:
        found = raw_image(stamp_ns, values.astype("<u2").view(np.uint8)[..., None], encoding)
        found.width = values.shape[1]
        return found

    return recorded(message)


RAMP = np.tile(np.linspace(0, 60_000, 64), (48, 1)).astype(np.uint16)


def test_gray_of_16_bits_is_no_depth(tmp_path: Path) -> None:
    dataset = convert_one(tmp_path, of_16_bits(RAMP, "mono16"), PNG)
    for image in stored(dataset):
        assert np.array_equal(image[..., 0], np.rint(RAMP * (255 / 65535)).astype(np.uint8))
    assert report(dataset)["bags"][0]["warnings"] == []


@pytest.mark.parametrize(
    ("values", "encoding", "settings", "words"),
    [
        (RAMP, "16UC1", [], ["lie outside data.depth_range_m=[0.0, 4.0]", "data.encodings={color: mono16}"]),
        (RAMP, "16UC1", ["data.depth_range_m=[0, 60]"], []),
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
