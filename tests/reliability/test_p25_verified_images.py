"""An image that is only verified, by a decode at 1/8 scale, gets the verdict of a full decode, whatever is damaged."""

import itertools
import struct
from collections.abc import Sequence

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


def blocks(factor: int) -> int:
    """Return how many blocks of a channel with this sampling factor, width and height in four bits each, are a unit."""
    return (factor >> 4) * (factor & 15)


def without_detail(sampling: Sequence[int]) -> bytes:
    """Return a gray JPEG of 40x50 pixels whose three channels have these sampling factors, and whose blocks are all empty."""
    quantization = b"\xff\xdb\x00\x43\x00" + bytes([16] * 64)
    channels = b"".join(bytes([number, factor, 0]) for number, factor in enumerate(sampling, 1))
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 40, 50, 3) + channels
    # Each table has one code, of one bit: no change for the first number of a block, the block's end for the others.
    huffman = b"".join(b"\xff\xc4\x00\x14" + bytes([table, 1, *[0] * 16]) for table in (0x00, 0x10))
    across, down = (8 * max(factor >> shift & 15 for factor in sampling) for shift in (4, 0))
    bits = 2 * -(-40 // down) * -(-50 // across) * sum(map(blocks, sampling))
    scan = b"\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x3f\x00" + bytes(bits // 8)
    padding = bytes([0xFF >> bits % 8] if bits % 8 else [])
    return b"\xff\xd8" + quantization + frame + huffman + scan + padding + END


def test_channels_of_any_size_have_the_same_verdict() -> None:
    factors = [16 * across + down for across in range(1, 5) for down in range(1, 5)]
    legal = [chosen for chosen in itertools.product(factors, repeat=3) if sum(map(blocks, chosen)) <= 10]
    found = [(verdict(data, True), verdict(data, False)) for data in map(without_detail, legal)]
    assert all(whole == eighth for whole, eighth in found)
    assert 0 < sum(file is not None for (_, file), _ in found) < len(found)
