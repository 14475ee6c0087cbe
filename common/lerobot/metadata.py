"""The metadata of a LeRobot v3.0 dataset: paths, features and meta/episodes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.command import UserError, one_line

VERSION = "v3.0"
CONVERT_V21 = (
    "convert it with LeRobot, `python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=...` (before 0.6: "
    "`python -m lerobot.datasets.v30.convert_dataset_v21_to_v30`)"
)
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
# Readers concatenate files in the order of their names, in which file-1000 would come before file-101.
FILES_PER_CHUNK = 1000
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
ENVIRONMENT = "observation.environment_state"
INDEX_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
BOUNDS, FILE_INDEX = ("dataset_from_index", "dataset_to_index"), ("data/chunk_index", "data/file_index")
IMAGE_DTYPES = ("image", "video")
NUMBERS = ("float16", "float32", "float64", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))


class Feature(NamedTuple):
    """One column of the dataset as meta/info.json declares it; images have shape (height, width, channels)."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None
    info: dict[str, Any]


class Episode(NamedTuple):
    """One recorded demonstration: rows `start` to `stop` (half open) of the whole dataset, and where its files are."""

    number: int
    start: int
    stop: int
    data_file: tuple[int, int]
    videos: dict[str, tuple[int, int, float, float]]  # key -> chunk, file, from_timestamp, to_timestamp in seconds

    @property
    def length(self) -> int:
        """Number of frames."""
        return self.stop - self.start


def data_file(index: int) -> tuple[int, int]:
    """Return (chunk_index, file_index) of the `index`-th file when every episode has a file of its own."""
    return divmod(index, FILES_PER_CHUNK)


def image_key(camera: str) -> str:
    """Return the feature key of a camera's images; a key outside observation.images. is its own camera name."""
    return camera if camera.startswith("observation.") else IMAGES + camera


def arrow_type(feature: Feature) -> pa.DataType:
    """Return the parquet type LeRobot expects of a feature stored in the data files (videos have no column there)."""
    if feature.dtype == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    scalar = pa.type_for_alias(feature.dtype)
    return scalar if feature.shape == (1,) else pa.list_(scalar, feature.shape[0])


def episode_paths(root: Path) -> list[Path]:
    """Return the files of meta/episodes in the order of their rows."""
    return sorted((root / "meta" / "episodes").glob("*/*.parquet"))


def read_episodes(root: Path, wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """Yield the rows of meta/episodes in order, with the columns whose names are `wanted`; raises UserError."""
    for path in episode_paths(root):
        try:
            names = [name for name in pq.read_schema(path).names if wanted(name)]
            yield from pq.read_table(path, columns=names, partitioning=None).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} cannot be read: {one_line(error)}") from error


def iterate_episodes(root: Path) -> Iterator[Episode]:
    """Yield the episodes of the dataset at `root` in order; raises UserError when meta/episodes is damaged."""
    try:
        for number, row in enumerate(read_episodes(root, lambda name: not name.startswith("stats/"))):
            videos = {
                key.split("/")[1]: (
                    row[key],
                    row[key.replace("chunk_index", "file_index")],
                    row[key.replace("chunk_index", "from_timestamp")],
                    row[key.replace("chunk_index", "to_timestamp")],
                )
                for key in row
                if key.startswith("videos/") and key.endswith("/chunk_index")
            }
            file = (row["data/chunk_index"], row["data/file_index"])
            numbers = {key: row[key] for key in ("episode_index", *BOUNDS, *FILE_INDEX)}
            bad = next((key for key, value in numbers.items() if not isinstance(value, int)), None)
            if bad:
                raise ValueError(f"row {number}: {bad} is {row[bad]!r}, expected a whole number")
            yield Episode(row["episode_index"], row["dataset_from_index"], row["dataset_to_index"], file, videos)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{root}/meta/episodes is damaged: {one_line(error)}") from error


def check_episodes(root: Path, episodes: Sequence[Episode], total_frames: int) -> None:
    """Raise UserError unless there are episodes that follow each other, with the frames that meta/info.json declares."""
    if not episodes:
        raise UserError(f"{root} holds no episodes")
    expected = 0
    for position, episode in enumerate(episodes):
        if (episode.number, episode.start) != (position, expected) or episode.length < 1:
            raise UserError(f"{root}/meta/episodes: episode {episode.number} does not follow the one before it")
        expected = episode.stop
    if total_frames != expected:
        raise UserError(f"{root}: info.json declares {total_frames} frames, the episodes hold {expected}")
