"""A LeRobot v3.0 dataset on disk: features, episodes, statistics, memory-mapped columns and images.

This is the contract between the stages. The layout is LeRobot's (`codebase_version` v3.0). Two things it has no place for
are stored beside it: how bags became rows, in `meta/conversion.json`, and what actions mean, in the action feature's `info`.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, StrictInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from common.cli.command import UserError, one_line
from common.cli.validation import validate
from common.lerobot.columns import as_array, copy_again_if_damaged, mapped
from common.lerobot.images import Image, decode_image, decode_video, resize
from common.storage.files import read_json

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK = (
    1000  # file-1000 would sort before file-101, and readers concatenate files in the order of their names
)
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
INDEX_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
IMAGE_DTYPES = ("image", "video")
NUMBERS = ("float16", "float32", "float64", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))


class Feature(NamedTuple):
    """One column of the dataset as meta/info.json declares it; images have shape (height, width, channels)."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None
    info: dict[str, Any]


class DeclaredFeature(BaseModel):
    """A feature in meta/info.json."""

    dtype: str
    shape: list[Annotated[StrictInt, Field(ge=1)]] = Field(min_length=1)
    names: list[str] | None = None
    info: dict[str, Any] | None = None

    @field_validator("names", mode="before")
    @classmethod
    def _flatten(cls, names: Any) -> Any:
        """Take the names out of {"motors": [...]}, as LeRobot also writes them."""
        return next(iter(names.values()), None) if isinstance(names, dict) else names

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse shapes and names that do not fit the type."""
        if self.dtype in IMAGE_DTYPES and len(self.shape) != 3:
            raise PydanticCustomError("image_shape", "a shape of height, width and channels")
        if len(self.shape) == 1 and self.names and len(self.names) != self.shape[0]:
            raise PydanticCustomError("names", "as many names as the shape has values")
        return self

    def feature(self) -> Feature:
        """Return it with the height of images first: some datasets declare (channels, height, width)."""
        shape, names = tuple(self.shape), tuple(self.names) if self.names else None
        if self.dtype in IMAGE_DTYPES and names and names[0] in ("channel", "channels"):
            shape = (*shape[1:], shape[0])
        return Feature(self.dtype, shape, names, self.info or {})


class Info(BaseModel):
    """meta/info.json, as far as it is read."""

    fps: int = Field(ge=1)
    total_frames: int
    features: dict[str, DeclaredFeature]
    robot_type: str | None = None


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


@dataclass(frozen=True)
class Dataset:
    """An opened dataset. Nothing is read beyond meta/ until columns or images are asked for."""

    root: Path
    fps: int
    features: dict[str, Feature]
    episodes: tuple[Episode, ...]
    info: Info
    size: tuple[int, int] | None = None  # height and width that every image is given in; None: as it is stored

    @classmethod
    def open(cls, root: Path) -> "Dataset":
        """Open and check a dataset's metadata; raises UserError naming what is wrong with which file."""
        path = root / "meta" / "info.json"
        if not path.is_file():
            raise UserError(f"no dataset in {root}: meta/info.json is missing; make one with python -m stage1_convert")
        raw = read_json(path)
        version = raw.get("codebase_version") if isinstance(raw, dict) else None
        if version != VERSION:
            raise UserError(f"{root} is not a LeRobot {VERSION} dataset: its codebase_version is {version!r}")
        info = validate(Info, raw, f"{path} is damaged: ")
        features = {key: declared.feature() for key, declared in info.features.items()}
        dataset = cls(root, info.fps, features, tuple(_episodes(root)), info)
        dataset._check()
        return dataset

    @property
    def n_frames(self) -> int:
        """Number of rows."""
        return self.episodes[-1].stop if self.episodes else 0

    @property
    def cameras(self) -> dict[str, tuple[int, int, int]]:
        """Camera name -> shape (height, width, channels) of the images as they are given, in the dataset's order."""
        stored = {key: _image_shape(feature) for key, feature in self.features.items() if feature.dtype in IMAGE_DTYPES}
        return {key.removeprefix(IMAGES): (*(self.size or shape[:2]), shape[2]) for key, shape in stored.items()}

    def in_size(self, size: tuple[int, int] | None) -> "Dataset":
        """Return the same dataset with its images resized to (height, width); None leaves them as they are stored."""
        return replace(self, size=size)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the action's dimensions; joint_0 ... when the dataset does not name them."""
        feature = self.features[ACTION]
        return feature.names or tuple(f"joint_{i}" for i in range(feature.shape[0]))

    @functools.cached_property
    def action_meaning(self) -> str | None:
        """`delta`, `next_position` or `command`, None when the dataset does not say (other tools' datasets do not)."""
        meaning = self.features[ACTION].info.get("action_meaning")
        return meaning if meaning in ("delta", "next_position", "command") else None

    @property
    def action_wrapped(self) -> bool | None:
        """Whether joint angles are wrapped to (-pi, pi], None when the dataset does not say."""
        wrapped = self.features[ACTION].info.get("wrapped")
        return wrapped if isinstance(wrapped, bool) else None

    @functools.cached_property
    def stats(self) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        """meta/stats.json as arrays: feature -> min, max, mean, std, count, q01 ... -> values."""
        path = self.root / "meta" / "stats.json"
        raw = read_json(path)
        try:
            return {
                key: {name: np.asarray(value, np.float64) for name, value in stats.items()}
                for key, stats in raw.items()
            }
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: {one_line(error)}") from error

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of the metadata and of the names, sizes and modification times of all other files."""
        return self._digest(with_times=True)

    @functools.cached_property
    def identity(self) -> str:
        """The fingerprint without modification times, which a copy of the dataset on another machine shares."""
        return self._digest(with_times=False)

    def _digest(self, with_times: bool) -> str:
        digest = hashlib.sha256()
        for path in sorted(path for path in self.root.rglob("*") if path.is_file()):
            name, stat = path.relative_to(self.root).as_posix(), path.stat()
            digest.update(f"{name}\0{stat.st_size}\0".encode())
            if name.startswith("meta/"):
                digest.update(path.read_bytes())
            elif with_times:
                digest.update(str(stat.st_mtime_ns).encode())
        return digest.hexdigest()

    def columns(self, names: Sequence[str], cache_dir: Path) -> dict[str, npt.NDArray[Any]]:
        """Return whole columns, (rows, dimensions) or (rows,), read through `datasets`' memory-mapped Arrow table.

        Only the named columns are copied into the Arrow cache, never the images. Raises UserError when rows are
        missing.
        """
        wanted = list(dict.fromkeys([*names, "index"]))

        def read() -> dict[str, npt.NDArray[Any]]:
            table = self._mapped(wanted, cache_dir)
            arrays = {name: as_array(table.column(name), *self.features[name][:2]) for name in wanted}
            if len(table) != self.n_frames or not np.array_equal(arrays["index"], np.arange(self.n_frames)):
                raise UserError(
                    f"{self.root}/data holds {len(table)} rows and meta/ declares {self.n_frames}, or its `index` column "
                    "does not count them up in order; convert the dataset again"
                )
            return {name: arrays[name] for name in names}

        return copy_again_if_damaged(self._columns_folder(cache_dir), read)

    def encoded_column(self, camera: str, cache_dir: Path) -> Any:
        """Return the column of a camera's encoded images, copied once, as they are, and memory-mapped."""
        key = image_key(camera)
        return copy_again_if_damaged(
            self._columns_folder(cache_dir), lambda: self._mapped([key], cache_dir).column(key)
        )

    def _mapped(self, names: Sequence[str], cache_dir: Path) -> Any:
        return mapped(self.root / "data", names, self._columns_folder(cache_dir))

    def _columns_folder(self, cache_dir: Path) -> Path:
        return cache_dir / "columns" / self.fingerprint[:24]

    def video(self, episode: Episode, camera: str) -> tuple[Path, float]:
        """Return the file that holds an episode's video of a camera, and at which second it begins there."""
        key = image_key(camera)
        chunk, file, start_s, _ = episode.videos[key]
        return self.root / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file), start_s

    def resized(self, image: Image, camera: str) -> Image:
        """Return a stored image in `size`; raises UserError when its shape is not the declared one."""
        declared = self.features[image_key(camera)].shape
        if image.shape != declared:
            raise UserError(f"the image has shape {image.shape}, the dataset declares {declared}")
        return resize(image, self.size)

    def images(self, episode: Episode, camera: str) -> Iterator[Image]:
        """Yield the episode's images of one camera in order, decoded, RGB (height, width, 3) uint8 in `size`.

        Raises UserError naming the episode and the frame when an image is damaged or has another size.
        """
        if self.features[image_key(camera)].dtype == "video":
            path, start_s = self.video(episode, camera)
            images = decode_video(path, start_s, episode.length, self.fps)
        else:
            images = (decode_image(data) for data in self.encoded_images(episode, camera))
        count = 0
        try:
            for image in images:
                yield self.resized(image, camera)
                count += 1
        except UserError as error:
            raise UserError(
                f"{self.root}: camera {camera}, episode {episode.number}, frame {count}: {error}"
            ) from error
        if count != episode.length:
            raise UserError(
                f"{self.root}: camera {camera}, episode {episode.number}: {count} images, {episode.length} rows"
            )

    def encoded_images(self, episode: Episode, camera: str) -> Iterator[bytes]:
        """Yield the stored JPEG or PNG files of one camera of an episode, in order."""
        key = image_key(camera)
        try:
            for batch in self.rows(episode, [f"{key}.bytes"], 64):
                yield from batch.column(key).field("bytes").to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.rows_path(episode)} cannot be read: {one_line(error)}") from error

    def rows_path(self, episode: Episode) -> Path:
        """Return the file that holds an episode's rows."""
        return self.root / DATA_PATH.format(chunk_index=episode.data_file[0], file_index=episode.data_file[1])

    def rows(self, episode: Episode, columns: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield an episode's rows, these columns and episode_index, without looking into row groups that hold none of them.

        Raises what Arrow raises on a damaged file.
        """
        with pq.ParquetFile(self.rows_path(episode)) as file:
            groups = [i for i in range(file.num_row_groups) if _may_hold(file.metadata.row_group(i), episode.number)]
            wanted = [*columns, "episode_index"]
            for batch in file.iter_batches(batch_size=batch_rows, row_groups=groups, columns=wanted):
                belongs = np.asarray(batch.column("episode_index")) == episode.number
                if belongs.any():
                    yield batch.filter(pa.array(belongs))

    def _check(self) -> None:
        for key in (STATE, ACTION, "index"):
            if key not in self.features:
                raise UserError(f"{self.root} has no {key}; it has {', '.join(self.features)}")
        for key, feature in self.features.items():
            if key in (STATE, ACTION, *INDEX_COLUMNS) and feature.dtype not in NUMBERS:
                raise UserError(f"{self.root}/meta is damaged: {key} has dtype {feature.dtype!r}")
            if feature.dtype in IMAGE_DTYPES and not key.startswith("observation."):
                raise UserError(f"{self.root}: {key} holds images; expected a name that begins with {IMAGES}")
        if not self.episodes:
            raise UserError(f"{self.root} holds no episodes")
        expected = 0
        for position, episode in enumerate(self.episodes):
            if (episode.number, episode.start) != (position, expected) or episode.length < 1:
                raise UserError(
                    f"{self.root}/meta/episodes: episode {episode.number} does not follow the one before it"
                )
            expected = episode.stop
        if self.info.total_frames != expected:
            raise UserError(
                f"{self.root}: info.json declares {self.info.total_frames} frames, the episodes hold {expected}"
            )


def _image_shape(feature: Feature) -> tuple[int, int, int]:
    height, width, channels = feature.shape
    return height, width, channels


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


def _episodes(root: Path) -> Iterator[Episode]:
    try:
        for row in read_episodes(root, lambda name: not name.startswith("stats/")):
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
            yield Episode(row["episode_index"], row["dataset_from_index"], row["dataset_to_index"], file, videos)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{root}/meta/episodes is damaged: {one_line(error)}") from error


def _may_hold(group: pq.RowGroupMetaData, episode: int) -> bool:
    """Return whether a row group may hold rows of the episode: other tools write many episodes into one file."""
    columns = (group.column(i) for i in range(group.num_columns))
    statistics = next((c.statistics for c in columns if c.path_in_schema == "episode_index"), None)
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= episode <= statistics.max)
