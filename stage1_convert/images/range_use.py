"""Says where the ranges of the settings do not suit what the cameras of a bag measured."""

from collections.abc import Iterator, Mapping, Sequence

from stage1_convert.config import MONO16, DataConfig
from stage1_convert.images.shades import Measured

MOST = 0.5  # of the measured pixels
FEW_SHADES = 0.1  # of a range


def range_warnings(ranges: Mapping[tuple[str, bool], Sequence[Measured]], data: DataConfig) -> Iterator[str]:
    """Yield a warning for each camera of which most pixels are clipped, or which is nearly of one shade.

    `ranges` holds what was measured in each image of more than 8 bits, by camera and whether it is depth.
    """
    for (camera, is_depth), images in sorted(ranges.items()):
        clipped = sum(image.clipped for image in images) / len(images)
        lowest, highest = min(image.lowest for image in images), max(image.highest for image in images)
        low, high = data.mono16_range.get(camera, MONO16)
        if clipped > MOST and is_depth:
            yield (
                f"camera {camera}: {clipped:.0%} of the measured pixels lie outside data.depth_range_m="
                f"{data.depth_range_m} and are clipped: choose a wider range, or data.encodings={{{camera}: mono16}} "
                "where this is no depth"
            )
        elif clipped > MOST:
            yield (
                f"camera {camera}: {clipped:.0%} of the pixels lie outside data.mono16_range={{{camera}: [{low}, {high}]}} "
                f"and are clipped: they are between {lowest:.0f} and {highest:.0f}"
            )
        elif not is_depth and highest - lowest < FEW_SHADES * (high - low):
            yield (
                f"camera {camera}: all pixels are between {lowest:.0f} and {highest:.0f} of "
                f"data.mono16_range={{{camera}: [{low}, {high}]}}, which leaves few shades: choose a narrower range"
            )
