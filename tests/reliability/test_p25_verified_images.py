"""An image that is only verified, by a decode at 1/8 scale, gets the verdict of a full decode, whatever is damaged."""

import cv2
import numpy as np
import pytest

from common.cli.command import UserError
from stage1_convert.images.compressed import verify_jpeg
from stage1_convert.images.decode import read_image
from tests.reliability.harness import loops
from tests.stage1_convert.recording import START_NS, compressed_image, draw

KINDS = {
    "baseline": [],
    "baseline with restart markers": [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "progressive with restart markers": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 3],
}
SAMPLINGS = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
SIZES = ((48, 64), (61, 83))
END = b"\xff\xd9"


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with one or a few bits flipped, or cut off and ended, or with some of its bytes lost."""
    position, kind = int(rng.integers(2, len(data) - 2)), rng.integers(4)
    if kind == 0:
        return data[:position] + END
    if kind == 1:
        return data[:position] + data[position + int(rng.integers(1, 60)) :].removesuffix(END) + END
    flipped = bytearray(data)
    for _ in range(1 if kind == 2 else 4):
        flipped[int(rng.integers(2, len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def verdict(data: bytes, whole: bool) -> tuple[str, bytes | None]:
    """Return what is wrong or odd with a file, and what the dataset stores of it."""
    try:
        image = verify_jpeg(read_image(compressed_image(START_NS, data), lazy=True), whole)
    except UserError as error:
        return str(error), None
    assert (image.pixels is not None) == (whole or image.file is None)
    return image.oddity, image.file


@pytest.mark.parametrize("kind", KINDS)
def test_the_verdict_is_that_of_a_full_decode(kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    files = [
        cv2.imencode(".jpg", draw(5, *size), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, *KINDS[kind]])[1].tobytes()
        for size in SIZES
        for sampling in SAMPLINGS
    ]
    assert all(verdict(data, False) == verdict(data, True) == ("", data) for data in files)
    stored = 0
    for number in range(loops(150, 5000)):
        data = damaged(files[number % len(files)], rng)
        expected = verdict(data, whole=True)
        assert verdict(data, whole=False) == expected, data.hex()
        stored += expected[1] is not None
    assert 0 < stored < number, "the damage must be such that some of the files are sound, and some are not"
