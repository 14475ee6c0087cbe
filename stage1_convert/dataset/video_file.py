"""H.264 videos whose frames are exactly 1/fps apart."""

from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av

from common.cli.command import UserError
from common.lerobot.images import Image

# Every second frame is a key frame, so that any frame is two decodings away, and there are no B frames, so that
# frames are stored in the order in which they are shown. One thread: more of them cut the image differently.
OPTIONS = {"crf": "23", "preset": "veryfast", "g": "2", "bf": "0", "threads": "1"}
CODEC, PIXELS = "libx264", "yuv420p"


def video_info(fps: int) -> dict[str, Any]:
    """Return what LeRobot keeps about a video in its feature's `info`, but for height and width."""
    own = {"video.g": 2, "video.crf": 23, "video.preset": OPTIONS["preset"], "video.fast_decode": 0}
    return {
        "video.codec": "h264",
        "video.pix_fmt": PIXELS,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
        **own,
        "video.video_backend": "pyav",
        "video.extra_options": {"bf": 0},
        "is_depth_map": False,
    }


class VideoFile:
    """Writes images, all of one even size, as the frames of a video."""

    def __init__(self, path: Path, size: tuple[int, int], fps: int) -> None:
        height, width = size
        if height % 2 or width % 2:
            raise UserError(f"a video of {height}x{width} needs an even height and width; set conventions.image_resize")
        self._fps, self._frames = fps, 0
        self._file = av.open(str(path), "w", format="mp4")
        self._stream = cast(av.VideoStream, self._file.add_stream(CODEC, rate=fps, options=OPTIONS))
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, PIXELS
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, fps)

    def add(self, image: Image) -> None:
        """Append the next frame, RGB (height, width, 3)."""
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = self._frames, Fraction(1, self._fps)
        self._file.mux(self._stream.encode(frame))
        self._frames += 1

    def close(self) -> None:
        """Finish the file."""
        self._file.mux(self._stream.encode(None))
        self._file.close()
