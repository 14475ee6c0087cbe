"""A dataset and one of its episodes in; a few small JPEG images of every camera out."""

import base64
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import pyarrow.parquet as pq

from common.cli.command import UserError, one_line
from common.lerobot.dataset import Dataset, Episode, image_key
from common.lerobot.images import Image, decode_image, decode_video

COUNT = 8
WIDTH_PX = 160
QUALITY = 72


def frames_shown(length: int) -> list[int]:
    """Return which frames of an episode are shown: the first, the last, and some in between."""
    return sorted({int(at) for at in np.linspace(0, length - 1, COUNT)})


def thumbnails(dataset: Dataset, episode: Episode, camera: str) -> Iterator[tuple[int, str, int, int]]:
    """Yield the frame, a data URI, its width and its height.

    Raises UserError naming camera, episode and frame when an image is damaged or missing.
    """
    wanted = frames_shown(episode.length)
    read = _from_video if dataset.features[image_key(camera)].dtype == "video" else _from_rows
    images = read(dataset, episode, camera, wanted)
    for frame in wanted:
        try:
            image = next(images)
        except (UserError, StopIteration) as error:  # the latter: a video ends too early
            raise UserError(f"camera {camera}, episode {episode.number}, frame {frame}: {one_line(error)}") from error
        height, width, _ = image.shape
        height, width = max(1, round(height * WIDTH_PX / width)), WIDTH_PX
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        yield frame, f"data:image/jpeg;base64,{base64.b64encode(data).decode()}", width, height


def _from_rows(dataset: Dataset, episode: Episode, camera: str, wanted: Sequence[int]) -> Iterator[Image]:
    """Read only the row groups in which the frames lie."""
    with pq.ParquetFile(dataset.rows_path(episode)) as file:
        first = episode.start - int(file.read_row_group(0, ["index"]).column(0)[0].as_py())
        sizes = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        held, column = -1, None
        for frame in wanted:
            group = int(np.searchsorted(starts, first + frame, side="right")) - 1
            if group != held:
                held, column = group, file.read_row_group(group, [f"{image_key(camera)}.bytes"]).column(0)
            assert column is not None
            yield decode_image(column[first + frame - int(starts[group])].as_py()["bytes"])


def _from_video(dataset: Dataset, episode: Episode, camera: str, wanted: Sequence[int]) -> Iterator[Image]:
    path, start_s = dataset.video(episode, camera)
    for frame in wanted:
        yield from decode_video(path, start_s + frame / dataset.fps, 1, dataset.fps)
