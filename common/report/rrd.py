"""Recordings for the viewer of Rerun (https://rerun.io): images, numbers and curves on the time of an episode.

Needs the extra `rerun`: pip install 'bag2act[rerun]'.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from common.cli.command import UserError
from common.lerobot import jpeg
from common.lerobot.dataset import Dataset
from common.lerobot.images import Image, decode_image
from common.lerobot.metadata import Episode, image_key
from common.storage.files import atomic_path

if TYPE_CHECKING:
    import rerun as rr

JPEG_QUALITY = 90
Values = npt.NDArray[Any]


class Recording:
    """Writes one .rrd file; every value has a frame number and a time in seconds, both counted from the episode's start."""

    def __init__(self, stream: "rr.RecordingStream", fps: float) -> None:
        self._stream, self._fps = stream, fps

    def numbers(self, entity: str, values: Values, first: int = 0) -> None:
        """Write a curve: a number for each frame from `first` on."""
        import rerun as rr

        self._stream.send_columns(
            entity, self._times(first + np.arange(len(values))), rr.Scalars.columns(scalars=values)
        )

    def vectors(self, entity: str, values_TN: Values, names: Iterable[str]) -> None:
        """Write a curve for each of the named dimensions, below `entity`."""
        for name, values_T in zip(names, values_TN.T, strict=True):
            self.numbers(f"{entity}/{part(name)}", values_T)

    def images(self, entity: str, files: Iterable[bytes], stamps_ns: Values | None = None, first: int = 0) -> None:
        """Write a JPEG file for each frame from `first` on; `stamps_ns` are their source stamps, the timeline `stamp`."""
        import rerun as rr

        for frame, file in enumerate(files):  # one by one: an episode need not fit into memory
            times = self._times(np.array([first + frame]))
            if stamps_ns is not None:
                times.append(rr.TimeColumn("stamp", timestamp=stamps_ns[frame : frame + 1].astype("datetime64[ns]")))
            columns = rr.EncodedImage.columns(blob=[file], media_type=["image/jpeg"])
            self._stream.send_columns(entity, times, columns)

    def _times(self, frames: Values) -> list[Any]:
        import rerun as rr

        return [rr.TimeColumn("frame", sequence=frames), rr.TimeColumn("time", duration=frames / self._fps)]


@contextlib.contextmanager
def new_recording(path: Path, fps: float, images: Iterable[str], plots: Mapping[str, str]) -> Iterator[Recording]:
    """Yield a recording that takes the name `path` when the block succeeds.

    The viewer shows a view of each entity in `images`, and beside them a plot of each entity in `plots`, by title.
    Raises UserError when Rerun is not installed, or the file cannot be written.
    """
    require_rerun()
    import rerun as rr
    import rerun.blueprint as rrb

    views = [rrb.Spatial2DView(origin=entity, name=entity.rpartition("/")[2]) for entity in images]
    curves = [rrb.TimeSeriesView(origin=entity, name=title) for title, entity in plots.items()]
    layout = rrb.Blueprint(rrb.Horizontal(rrb.Vertical(*views), rrb.Vertical(*curves)), collapse_panels=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_path(path) as temporary,
        rr.RecordingStream("bag2act", recording_id=path.stem, send_properties=False) as stream,
    ):
        stream.save(temporary, default_blueprint=layout)
        yield Recording(stream, fps)
        stream.flush()
        stream.disconnect()


def part(name: str) -> str:
    """Return a name as one part of the path of an entity."""
    import rerun as rr

    return str(rr.escape_entity_path_part(name))


def require_rerun() -> None:
    """Raise UserError when Rerun is not installed."""
    if find_spec("rerun") is None:
        raise UserError("--rerun needs Rerun: pip install 'bag2act[rerun]'")


def jpeg_files(dataset: Dataset, episode: Episode, camera: str) -> Iterator[bytes]:
    """Yield an episode's images as JPEG files: as they are stored where they are JPEG and not resized, else encoded."""
    if dataset.features[image_key(camera)].dtype == "video" or dataset.size is not None:
        yield from (encode_jpeg(image) for image in dataset.images(episode, camera))
        return
    for file in dataset.encoded_images(episode, camera):
        yield file if file.startswith(jpeg.MAGIC) else encode_jpeg(decode_image(file))


def encode_jpeg(image: Image) -> bytes:
    """Return an RGB image (height, width, 3) as a JPEG file."""
    done, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, "OpenCV cannot encode JPEG"
    return encoded.tobytes()
