"""A sensor_msgs Image or CompressedImage in; its RGB pixels, and the file to store when it can stay as it is, out."""

from typing import Any

from stage1_convert.images.compressed import read_compressed
from stage1_convert.images.image import CameraImage, ImageRules
from stage1_convert.images.raw import read_raw

RULES = ImageRules()


def read_image(message: Any, rules: ImageRules = RULES, lazy: bool = False) -> CameraImage:
    """Return the image of an image message by the rules of its camera.

    With `lazy` a color JPEG is not decoded: only its header and its end marker are looked at, until verify_jpeg or `rgb`.
    Raises UserError when the image is damaged, larger than MAX_PIXELS or of a kind that is not supported.
    """
    return read_raw(message, rules) if hasattr(message, "encoding") else read_compressed(message, rules, lazy)
