"""Images of a page: frames of a dataset, and pixels, as data URLs."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from common.lerobot.dataset import Dataset
from common.lerobot.frames import read_frames
from common.lerobot.images import Image
from common.lerobot.metadata import Episode

FILM_FRAMES, FILM_PX = 8, 160
JPEG_QUALITY = 78


class PageImage(NamedTuple):
    """An image as a page holds it: its data URL, its size in pixels, what it shows in words, and a caption."""

    url: str
    width: int
    height: int
    alt: str
    caption: str = ""


def film(dataset: Dataset, episode: Episode, camera: str) -> list[PageImage]:
    """Return small images of a camera, spread evenly over the episode, with the time of each as its caption."""
    frames = film_frames(episode.length)
    times = [f"{frame / dataset.fps:.1f} s" for frame in frames]
    images = read_frames(dataset, episode, camera, frames)
    return [
        jpeg(image, f"Episode {episode.number}, camera {camera}, at {time}", FILM_PX, time)
        for image, time in zip(images, times, strict=True)
    ]


def film_frames(length: int, count: int = FILM_FRAMES) -> list[int]:
    """Return which frames of an episode a film of `count` images shows: the first, the last, and some in between."""
    return sorted({int(frame) for frame in np.linspace(0, length - 1, count)})


def sheet(images: Iterable[Image], width: int) -> PageImage:
    """Return images of one size as one JPEG file, side by side, each made smaller to `width`; the size is that of one."""
    small = [_smaller(image, width) for image in images]
    height, width, _ = small[0].shape
    return jpeg(np.hstack(small), "", width * len(small))._replace(width=width, height=height)


def jpeg(image: Image, alt: str, max_width: int, caption: str = "") -> PageImage:
    """Return an RGB image (height, width, 3) as a JPEG file, made smaller when it is wider than `max_width`."""
    image = _smaller(image, max_width)
    height, width, _ = image.shape
    url = _data_url(image[..., ::-1], "jpeg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return PageImage(url, width, height, alt, caption)


def heat_map(values_RC: npt.NDArray[Any], top_R: npt.NDArray[Any], alt: str) -> PageImage:
    """Return values (rows, columns) as a PNG file, a pixel each: black is 0 and yellow is `top_R` of the row or more."""
    scaled = np.clip(values_RC / np.where(top_R > 0, top_R, 1)[:, None], 0, 1) * 255
    url = _data_url(cv2.applyColorMap(scaled.astype(np.uint8), cv2.COLORMAP_INFERNO), "png")
    return PageImage(url, values_RC.shape[1], values_RC.shape[0], alt)


def _smaller(image: Image, max_width: int) -> Image:
    height, width, _ = image.shape
    if width <= max_width:
        return image
    size = (max_width, max(1, round(height * max_width / width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _data_url(bgr: npt.NDArray[Any], kind: str, options: Sequence[int] = ()) -> str:
    done, encoded = cv2.imencode(f".{kind}", np.ascontiguousarray(bgr), list(options))
    assert done, f"OpenCV cannot encode {kind}"
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"
