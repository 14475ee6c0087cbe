"""Converts the pixels of a sensor_msgs Image, in any of its encodings, to RGB."""

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from common.cli.command import UserError
from common.lerobot.images import Image
from stage1_convert.config import Encoding
from stage1_convert.images import shades
from stage1_convert.images.image import CameraImage, ImageRules, check_size

TO_GRAY = cv2.COLOR_GRAY2RGB
# OpenCV's older names (BayerBG for RGGB) look at the second row; these look at the first, as ROS does.
BAYER = {
    "rggb": cv2.COLOR_BayerRGGB2RGB,
    "bggr": cv2.COLOR_BayerBGGR2RGB,
    "gbrg": cv2.COLOR_BayerGBRG2RGB,
    "grbg": cv2.COLOR_BayerGRBG2RGB,
}


class Layout(NamedTuple):
    """How the pixels of an encoding are stored: numpy's type (byte order by the message), channels, OpenCV's way to RGB.

    `conversion` is None where they are RGB already; `kind` says what they are.
    """

    dtype: str
    channels: int
    conversion: int | None
    kind: str


# By sensor_msgs/image_encodings.hpp.
LAYOUTS: dict[Encoding, Layout] = {
    "rgb8": Layout("u1", 3, None, "color"),
    "bgr8": Layout("u1", 3, cv2.COLOR_BGR2RGB, "color"),
    "rgba8": Layout("u1", 4, cv2.COLOR_RGBA2RGB, "color"),
    "bgra8": Layout("u1", 4, cv2.COLOR_BGRA2RGB, "color"),
    "mono8": Layout("u1", 1, TO_GRAY, "gray"),
    "8UC1": Layout("u1", 1, TO_GRAY, "gray"),
    "mono16": Layout("u2", 1, TO_GRAY, "gray of 16 bits"),
    "16UC1": Layout("u2", 1, TO_GRAY, "depth in millimeters"),
    "32FC1": Layout("f4", 1, TO_GRAY, "depth in meters"),
    "bayer_rggb8": Layout("u1", 1, BAYER["rggb"], "Bayer mosaic RGGB"),
    "bayer_bggr8": Layout("u1", 1, BAYER["bggr"], "Bayer mosaic BGGR"),
    "bayer_gbrg8": Layout("u1", 1, BAYER["gbrg"], "Bayer mosaic GBRG"),
    "bayer_grbg8": Layout("u1", 1, BAYER["grbg"], "Bayer mosaic GRBG"),
    "bayer_rggb16": Layout("u2", 1, BAYER["rggb"], "Bayer mosaic RGGB of 16 bits"),
    "bayer_bggr16": Layout("u2", 1, BAYER["bggr"], "Bayer mosaic BGGR of 16 bits"),
    "bayer_gbrg16": Layout("u2", 1, BAYER["gbrg"], "Bayer mosaic GBRG of 16 bits"),
    "bayer_grbg16": Layout("u2", 1, BAYER["grbg"], "Bayer mosaic GRBG of 16 bits"),
    "yuv422": Layout("u1", 2, cv2.COLOR_YUV2RGB_UYVY, "color"),
    "uyvy": Layout("u1", 2, cv2.COLOR_YUV2RGB_UYVY, "color"),
    "yuv422_yuy2": Layout("u1", 2, cv2.COLOR_YUV2RGB_YUYV, "color"),
    "yuyv": Layout("u1", 2, cv2.COLOR_YUV2RGB_YUYV, "color"),
}
# A plane of luma, and behind it one of half the rows whose pairs of bytes are the chroma of four pixels.
SEMI_PLANAR: dict[Encoding, int] = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
SUPPORTED = (*LAYOUTS, *SEMI_PLANAR)
# Words that count channels and do not name them -> what they hold most often, by OpenCV's and V4L2's habits.
GUESSES: dict[str, Encoding] = {"8UC2": "yuyv", "8UC3": "bgr8", "8UC4": "bgra8"}


def read_raw(message: Any, rules: ImageRules) -> CameraImage:
    """Return the image of a message; raises UserError when it is damaged, too large, or of an unknown encoding."""
    name = rules.encoding or message.encoding
    if name in SEMI_PLANAR:
        return CameraImage.of_pixels(_semi_planar(message, name, rules), "color")
    if name not in LAYOUTS:
        raise _unknown(name, rules)
    layout, height, width = LAYOUTS[name], message.height, message.width
    row_bytes, length = width * layout.channels * int(layout.dtype[1]), len(message.data)
    step = message.step or row_bytes  # some drivers leave it out
    if not (height and width and step >= row_bytes and length == height * step):
        raise _misfit(message, name, rules)
    check_size(height, width)
    if layout.channels == 2 and width % 2:
        raise UserError(
            f"an image of {height}x{width} {name} has an odd width, but two pixels share their color: {_say_so(rules)}"
        )
    rows = np.ascontiguousarray(message.data.reshape(height, step)[:, :row_bytes])
    numbers = rows.view((">" if message.is_bigendian else "<") + layout.dtype).reshape(height, width, layout.channels)
    return image_from_array(numbers, name, rules)


def image_from_array(numbers: npt.NDArray[Any], name: Encoding, rules: ImageRules) -> CameraImage:
    """Return the image of numbers (height, width, channels) that `name`, one of LAYOUTS, describes."""
    layout, measured = LAYOUTS[name], None
    if layout.dtype != "u1":
        plane = numbers[..., 0]
        if name == "32FC1":
            values, measured = shades.depth_in_m(plane, rules.depth_range_m)
        elif name == "16UC1":
            values, measured = shades.depth_in_mm(plane, rules.depth_range_m)
        else:
            values, measured = shades.gray(plane, rules.mono16_range)
        numbers = values[..., None]
    if "bayer" in name and min(numbers.shape[:2]) < 2:
        height, width = numbers.shape[:2]
        raise UserError(f"an image of {height}x{width} {name} has no colors, which take 2x2 pixels: {_say_so(rules)}")
    pixels = numbers if layout.conversion is None else cv2.cvtColor(numbers, layout.conversion)
    return CameraImage.of_pixels(pixels, layout.kind, measured)  # type: ignore[arg-type]


def _semi_planar(message: Any, name: Encoding, rules: ImageRules) -> Image:
    height, width, step, length = message.height, message.width, message.step, len(message.data)
    # Without padding, drivers count a row as its luma, or as its share of all bytes, or not at all.
    if step in (0, width * 3 // 2) and length == height * width * 3 // 2:
        step = width
    if not (height and width and step >= width and 2 * length == 3 * height * step):
        raise _misfit(message, name, rules)
    check_size(height, width)
    if height % 2 or width % 2:
        raise UserError(
            f"an image of {height}x{width} {name} has an odd side, but four pixels share their color: {_say_so(rules)}"
        )
    planes = np.ascontiguousarray(message.data.reshape(height * 3 // 2, step)[:, :width])
    return cv2.cvtColor(planes, SEMI_PLANAR[name])  # type: ignore[return-value]


def _misfit(message: Any, name: str, rules: ImageRules) -> UserError:
    size, length = f"{message.height}x{message.width}", len(message.data)
    return UserError(
        f"an image of {size} {name} with row step {message.step} does not fit its {length} bytes: {_say_so(rules)}"
    )


def _unknown(name: str, rules: ImageRules) -> UserError:
    if name in GUESSES:
        return UserError(
            f"encoding {name!r} does not name its channels: say by data.encodings={{{rules.camera}: {GUESSES[name]}}} or "
            "another encoding what they are"
        )
    return UserError(f"encoding {name!r} is not supported; supported: {', '.join(SUPPORTED)}; {_say_so(rules)}")


def _say_so(rules: ImageRules) -> str:
    return f"what the camera really sends can be said by data.encodings={{{rules.camera}: ENCODING}}"
