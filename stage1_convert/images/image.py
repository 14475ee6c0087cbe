"""The image that a message holds, and the settings by which one camera's messages are read."""

from typing import NamedTuple

from common.cli.command import UserError
from common.lerobot.images import MAX_PIXELS, Image, decode_intact
from stage1_convert.config import MONO16, DataConfig, Encoding
from stage1_convert.images.shades import Measured

OTHER_TOPIC = "name another topic of this camera in data.cameras, or leave the camera out"


class ImageRules(NamedTuple):
    """How the images of a camera are read: what data.encodings, data.depth_range_m and data.mono16_range say of it.

    `encoding` None means the message's own word.
    """

    camera: str = "CAMERA"
    encoding: Encoding | None = None
    depth_range_m: tuple[float, float] = (0.0, 4.0)
    mono16_range: tuple[int, int] = MONO16

    @classmethod
    def of(cls, camera: str, data: DataConfig) -> "ImageRules":
        """Return the rules for a camera of a configuration."""
        near_m, far_m = data.depth_range_m
        low, high = data.mono16_range.get(camera, MONO16)
        return cls(camera, data.encodings.get(camera), (near_m, far_m), (low, high))


class CameraImage(NamedTuple):
    """An image: its size, its RGB pixels (height, width, 3) uint8, and its file when every reader decodes it to them.

    `file_format` is jpeg or png. `pixels` is None where a JPEG was not decoded whole. `kind` says what the message was read
    as. `measured` describes numbers of more than 8 bits, None where there are none. `oddity` says what is odd about the
    recorded file though the image is whole.
    """

    height: int
    width: int
    pixels: Image | None
    kind: str
    file: bytes | None = None
    file_format: str = ""
    measured: Measured | None = None
    oddity: str = ""

    @classmethod
    def of_pixels(cls, pixels: Image, kind: str, measured: Measured | None = None) -> "CameraImage":
        """Return an image that has no file of its own."""
        height, width, _ = pixels.shape
        return cls(height, width, pixels, kind, measured=measured)

    def rgb(self) -> Image:
        """Return the pixels, decoding now a file that was not; raises UserError when it is damaged."""
        return self.pixels if self.pixels is not None else decode_intact(self.file or b"")


def check_size(height: int, width: int) -> None:
    """Raise UserError for an image without pixels, or with more than MAX_PIXELS."""
    if not 0 < height * width < MAX_PIXELS:
        raise UserError(
            f"an image of {height}x{width} pixels is refused; the limit is {MAX_PIXELS} pixels: {OTHER_TOPIC}"
        )
