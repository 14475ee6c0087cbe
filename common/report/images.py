"""Images of a page: frames of a dataset, read one by one, and pixels as data URLs."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from common.cli.command import UserError, one_line
from common.lerobot.dataset import Dataset
from common.lerobot.images import Image, decode_image, image_file
from common.lerobot.metadata import Episode, image_key

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


def read_frames(dataset: Dataset, episode: Episode, camera: str, frames: Sequence[int]) -> Iterator[Image]:
    """Yield a few frames of an episode, in rising order, without decoding those in between.

    Raises UserError naming camera, episode and frame when an image is damaged or missing.
    """
    is_video = dataset.features[image_key(camera)].dtype == "video"
    images = (_from_video if is_video else _from_rows)(dataset, episode, camera, frames)
    for frame in frames:
        try:
            image = dataset.resized(next(images), camera)
        except UserError as error:
            raise UserError(f"camera {camera}, episode {episode.number}, frame {frame}: {one_line(error)}") from error
        yield image


def jpeg(image: Image, alt: str, max_width: int, caption: str = "") -> PageImage:
    """Return an RGB image (height, width, 3) as a JPEG file, made smaller when it is wider than `max_width`."""
    image = _smaller(image, max_width)
    height, width, _ = image.shape
    url = _data_url(image[..., ::-1], "jpeg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return PageImage(url, width, height, alt, caption)


def heat_map(values_RC: npt.NDArray[Any], top: float, alt: str) -> PageImage:
    """Return values (rows, columns) as a PNG file, a pixel each: black is 0 and yellow is `top` or more."""
    scaled = np.clip(values_RC / (top or 1.0), 0, 1) * 255
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


def _from_rows(dataset: Dataset, episode: Episode, camera: str, frames: Sequence[int]) -> Iterator[Image]:
    """Read only the row groups in which the frames are stored."""
    with pq.ParquetFile(dataset.rows_path(episode)) as file:
        first = episode.start - int(file.read_row_group(0, ["index"]).column(0)[0].as_py())
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        held, column = -1, None
        for frame in frames:
            group = int(np.searchsorted(starts, first + frame, side="right")) - 1
            if group != held:
                held, column = group, file.read_row_group(group, [dataset.stored[image_key(camera)]]).column(0)
            assert column is not None
            yield decode_image(image_file(dataset.root, column[first + frame - int(starts[group])].as_py()))


def _from_video(dataset: Dataset, episode: Episode, camera: str, frames: Sequence[int]) -> Iterator[Image]:
    for frame in frames:
        yield dataset.video_frame(episode, camera, frame)
