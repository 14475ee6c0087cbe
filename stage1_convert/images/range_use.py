"""Counts how well the ranges of the settings cover what the cameras of a bag measured; says where they do not."""

from collections.abc import Iterator
from typing import NamedTuple

from stage1_convert.config import MONO16, DataConfig
from stage1_convert.images.image import CameraImage

MOST = 0.5  # of the measured pixels
FEW_SHADES = 0.1  # of a range


class _Use(NamedTuple):
    """Of a camera's images so far: how many measured something, the sum of their shares that are clipped, the extremes."""

    is_depth: bool
    images: int
    clipped: float
    lowest: float
    highest: float


class RangeUse:
    """Takes the images of a bag's cameras."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    def add(self, camera: str, image: CameraImage) -> None:
        """Count an image; it is left alone where no range applies."""
        if image.measured is None:
            return
        lowest, highest, clipped = image.measured
        use = self._uses.get(camera, _Use("depth" in image.kind, 0, 0.0, lowest, highest))
        self._uses[camera] = use._replace(
            images=use.images + 1,
            clipped=use.clipped + clipped,
            lowest=min(use.lowest, lowest),
            highest=max(use.highest, highest),
        )

    def warnings(self, data: DataConfig) -> Iterator[str]:
        """Yield a warning for each camera of which most pixels are clipped, or which is nearly of one shade."""
        for camera, use in sorted(self._uses.items()):
            clipped = use.clipped / use.images
            low, high = data.mono16_range.get(camera, MONO16)
            if clipped > MOST and use.is_depth:
                yield (
                    f"camera {camera}: {clipped:.0%} of the measured pixels lie outside data.depth_range_m="
                    f"{data.depth_range_m} and are clipped: choose a wider range, or data.encodings={{{camera}: mono16}} "
                    "where this is no depth"
                )
            elif clipped > MOST:
                yield (
                    f"camera {camera}: {clipped:.0%} of the pixels lie outside data.mono16_range={{{camera}: [{low}, {high}]}} "
                    f"and are clipped: they are between {use.lowest:.0f} and {use.highest:.0f}"
                )
            elif not use.is_depth and use.highest - use.lowest < FEW_SHADES * (high - low):
                yield (
                    f"camera {camera}: all pixels are between {use.lowest:.0f} and {use.highest:.0f} of "
                    f"data.mono16_range={{{camera}: [{low}, {high}]}}, which leaves few shades: choose a narrower range"
                )
