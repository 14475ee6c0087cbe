"""Depth that RVL compressed comes back to the last number, and damage is refused."""

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from common.cli.command import UserError
from stage1_convert.images.decode import read_image
from stage1_convert.images.image import ImageRules
from stage1_convert.images.rvl import decode_rvl
from tests.stage1_convert.memory import at_most
from tests.stage1_convert.recording import START_NS, compressed_image

DEPTH = np.uint16


def numbers(depth: list[int]) -> Iterator[int]:
    """Yield the numbers that RVL writes for a row of pixels: runs, and differences."""
    at = last = 0
    while at < len(depth):
        for is_zero in (True, False):
            first = at
            while at < len(depth) and (depth[at] == 0) == is_zero:
                at += 1
            yield at - first
        for value in depth[first:at]:
            step, last = value - last, value
            yield 2 * step if step >= 0 else -2 * step - 1


def encode(depth: npt.NDArray[DEPTH]) -> bytes:
    """Return RVL data, nibble by nibble."""
    nibbles = []
    for number in numbers(depth.ravel().tolist()):
        groups = [number >> shift & 7 for shift in range(0, max(1, number.bit_length()), 3)]
        nibbles += [group | 8 for group in groups[:-1]] + groups[-1:]
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)]
    return struct.pack(f"<{len(words)}I", *words)


CASES: dict[str, npt.NDArray[DEPTH]] = {
    "nothing measured": np.zeros(100, DEPTH),
    "all measured": np.arange(1, 101, dtype=DEPTH),
    "holes at both ends": np.array([0, 0, 7, 9, 0, 0, 0, 5, 0], DEPTH),
    "no hole at the ends": np.array([3, 0, 65535], DEPTH),
    "the largest steps": np.array([65535, 1, 65535, 0, 1], DEPTH),
    "noise": np.random.default_rng(0).integers(0, 6, 5000).astype(DEPTH) * DEPTH(997),
}


@pytest.mark.parametrize("name", CASES)
def test_every_pixel_comes_back(name: str) -> None:
    depth = CASES[name]
    found = decode_rvl(encode(depth), len(depth))
    assert found.dtype == DEPTH
    assert np.array_equal(found, depth)


def test_data_written_by_hand() -> None:
    # 1 zero, 3 others, +10 (20 = 4 + 2*8: nibbles c 2), -2 (3), +0 (0); 2 zeros, 0 others
    assert decode_rvl(struct.pack("<2I", 0x13C23020, 0), 6).tolist() == [0, 10, 8, 8, 0, 0]


@pytest.mark.parametrize("name", [name for name in CASES if name != "nothing measured"])
def test_data_that_are_cut_off_are_refused(name: str) -> None:
    depth = CASES[name]
    with pytest.raises(UserError, match="its RVL data do not fit its size"):
        decode_rvl(encode(depth)[:-4], len(depth))


def test_data_for_more_pixels_than_the_image_has_are_refused() -> None:
    with pytest.raises(UserError, match="do not fit"):
        decode_rvl(encode(CASES["all measured"]), 99)


def test_a_number_without_end_is_refused() -> None:
    with pytest.raises(UserError, match="do not fit"):
        decode_rvl(b"\xff" * 400, 1000)


def message(payload: bytes, kind: str = "16UC1", a: float = 0, b: float = 0) -> object:
    return compressed_image(START_NS, struct.pack("<iff", 1, a, b) + payload, f"{kind}; compressedDepth rvl")


def test_a_message_of_compressed_depth_in_millimeters() -> None:
    depth = np.array([[0, 500, 1000], [1500, 2500, 9000]], DEPTH)
    found = read_image(message(struct.pack("<II", 3, 2) + encode(depth)), ImageRules("depth", None, (0.5, 2.5)))
    assert found.pixels is not None
    assert found.pixels[..., 0].tolist() == [[0, 0, 64], [128, 255, 255]]
    assert found.kind == "depth in millimeters"
    assert found.measured == (500, 9000, 1 / 5)


def test_a_message_of_compressed_depth_in_meters_is_computed_from_its_inverse() -> None:
    a, b = 300.0, 2.0
    quantized = np.array([[0, round(a / 1.0 + b), round(a / 2.0 + b)]], DEPTH)
    payload = struct.pack("<II", 3, 1) + encode(quantized)
    found = read_image(message(payload, "32FC1", a, b), ImageRules("depth", None, (0.5, 2.5)))
    assert found.pixels is not None
    assert found.pixels[..., 0].tolist() == [[0, 64, 191]]


@pytest.mark.parametrize("size", [(0, 5), (1 << 16, 1 << 16), ((1 << 32) - 1, (1 << 32) - 1)])
def test_a_size_that_is_none_is_refused_before_it_takes_memory(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="is refused; the limit"), at_most(100 << 20):
        read_image(message(struct.pack("<II", *size) + bytes(400)))


def test_a_message_that_ends_in_its_header_is_refused() -> None:
    with pytest.raises(UserError, match="cut off in its header"):
        read_image(message(b"\x03\0\0\0"))
