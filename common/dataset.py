"""A LeRobot v3.0 dataset on disk in; its features, episodes, statistics, memory-mapped columns and pictures out.

This is the contract between the stages. The layout is LeRobot's (`codebase_version` v3.0); what LeRobot has no place
for stands in `meta/conversion.json` (how the bags became rows) and in the action feature's `info` (what actions mean).
"""

import bisect
import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.command import UserError, one_line
from common.files import read_json
from common.pictures import Picture, decode_picture, decode_video, resize

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
PICTURE_DTYPES = ("image", "video")
T = TypeVar("T")
log = logging.getLogger(__name__)


class Feature(NamedTuple):
    """One column of the dataset as meta/info.json declares it; pictures have shape (height, width, channels)."""

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


def picture_key(camera: str) -> str:
    """Return the feature key of a camera's pictures; a key outside observation.images. is its own camera name."""
    return camera if camera.startswith("observation.") else IMAGES + camera


def arrow_type(feature: Feature) -> pa.DataType:
    """Return the parquet type LeRobot expects of a feature stored in the data files (videos have no column there)."""
    if feature.dtype == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    scalar = pa.type_for_alias(feature.dtype)
    return scalar if feature.shape == (1,) else pa.list_(scalar, feature.shape[0])


@dataclass(frozen=True)
class Dataset:
    """An opened dataset. Nothing is read beyond meta/ until columns or pictures are asked for."""

    root: Path
    fps: int
    features: dict[str, Feature]
    episodes: tuple[Episode, ...]
    info: dict[str, Any]
    size: tuple[int, int] | None = None  # height and width that every picture is given in; None: as it is stored

    @classmethod
    def open(cls, root: Path) -> "Dataset":
        """Open and check a dataset's metadata; raises UserError naming what is wrong with which file."""
        if not (root / "meta" / "info.json").is_file():
            raise UserError(f"no dataset in {root}: meta/info.json is missing; make one with python -m stage1_convert")
        info = read_json(root / "meta" / "info.json")
        version = info.get("codebase_version") if isinstance(info, dict) else None
        if version != VERSION:
            raise UserError(f"{root} is not a LeRobot {VERSION} dataset: its codebase_version is {version!r}")
        try:
            features = {key: _feature(value) for key, value in info["features"].items()}
            fps = int(info["fps"])
            episodes = tuple(_episodes(root))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{root}/meta is damaged: {one_line(error)}") from error
        dataset = cls(root, fps, features, episodes, info)
        dataset._check()
        return dataset

    @property
    def n_frames(self) -> int:
        """Number of rows."""
        return self.episodes[-1].stop if self.episodes else 0

    @property
    def cameras(self) -> dict[str, tuple[int, int, int]]:
        """Camera name -> shape (height, width, channels) of the pictures as they are given, in the dataset's order."""
        stored = {key: _three(feature) for key, feature in self.features.items() if feature.dtype in PICTURE_DTYPES}
        return {key.removeprefix(IMAGES): (*(self.size or shape[:2]), shape[2]) for key, shape in stored.items()}

    def in_size(self, size: tuple[int, int] | None) -> "Dataset":
        """Return the same dataset with its pictures in another (height, width), for a network that sees them so."""
        return replace(self, size=size)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the action's dimensions."""
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
            return {key: {name: np.asarray(value, np.float64) for name, value in of.items()} for key, of in raw.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: {one_line(error)}") from error

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex sha256 that changes when the metadata, or the name, size or time of a data or video file, does."""
        return self._digest(with_times=True)

    @functools.cached_property
    def identity(self) -> str:
        """The same without the times: a copy of the dataset on another machine has it too."""
        return self._digest(with_times=False)

    def _digest(self, with_times: bool) -> str:
        digest = hashlib.sha256()
        for path, (size_bytes, changed_ns) in self.files.items():
            name = path.relative_to(self.root).as_posix()
            digest.update(f"{name}\0{size_bytes}\0".encode())
            if name.startswith("meta/"):
                digest.update(path.read_bytes())
            elif with_times:
                digest.update(str(changed_ns).encode())
        return digest.hexdigest()

    @functools.cached_property
    def files(self) -> dict[Path, tuple[int, int]]:
        """Size in bytes and time of change in ns of every file, as they were when this was first asked for."""
        return _files(self.root)

    def changed_file(self) -> Path | None:
        """Return a file that has changed, come or gone since `files` was first asked for, by sizes and times alone."""
        try:
            now = _files(self.root)
        except OSError as error:  # it is being changed right now
            return Path(error.filename or self.root)
        return next((path for path in {**self.files, **now} if now.get(path) != self.files.get(path)), None)

    def data_paths(self) -> list[Path]:
        """Return the data files in the order in which readers concatenate them."""
        return sorted((self.root / "data").glob("*/*.parquet"))

    def columns(self, names: Sequence[str], cache_dir: Path) -> dict[str, npt.NDArray[Any]]:
        """Return whole columns, (rows, dimensions) or (rows,), read through `datasets`' memory-mapped Arrow table.

        Only the named columns are copied into the Arrow cache, never the pictures. Raises UserError when rows are
        missing.
        """
        return self._copied(cache_dir, lambda folder: self._columns(names, folder))

    def _copied(self, cache_dir: Path, read: Callable[[Path], T]) -> T:
        """Read from this dataset's folder of the cache; if what lies there is damaged, it is copied anew."""
        folder = cache_dir / "columns" / self.fingerprint[:24]
        lay_there = folder.exists()
        try:
            return read(folder)
        except UserError as error:
            if not lay_there:
                raise
            log.warning("%s is copied anew, it may be damaged: %s", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
            return read(folder)

    def _columns(self, names: Sequence[str], folder: Path) -> dict[str, npt.NDArray[Any]]:
        wanted = list(dict.fromkeys([*names, "index"]))
        table = self._mapped(wanted, folder)
        arrays = {name: _array(table.column(name), self.features[name]) for name in wanted}
        if len(table) != self.n_frames or not np.array_equal(arrays["index"], np.arange(self.n_frames)):
            raise UserError(
                f"{self.root}/data holds {len(table)} rows and meta/ declares {self.n_frames}, or its `index` column "
                "does not count them up in order; convert the dataset again"
            )
        return {name: arrays[name] for name in names}

    def _mapped(self, names: Sequence[str], folder: Path) -> Any:
        import datasets

        datasets.disable_progress_bars()
        paths = [str(path) for path in self.data_paths()]
        folder.mkdir(parents=True, exist_ok=True)
        # `datasets` makes a file name of its folder's whole path, which gets too long: it is given another path there.
        handle = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            return datasets.Dataset.from_parquet(paths, columns=names, cache_dir=f"/proc/self/fd/{handle}").data
        except (datasets.exceptions.DatasetGenerationError, pa.ArrowException, OSError, ValueError) as error:
            cause = error.__cause__ or error
            raise UserError(f"{self.root}/data cannot be read: {one_line(cause)}") from error
        except (
            AttributeError,
            LookupError,
            TypeError,
            RecursionError,
        ) as error:  # it believes the files' note of their features
            raise UserError(
                f"{self.root}/data has a note of its features that is damaged: {one_line(error)}"
            ) from error
        finally:
            os.close(handle)

    def picture_by_row(self, camera: str, cache_dir: Path) -> Callable[[int], Picture]:
        """Return what decodes one picture of a camera, from any thread, by its row.

        The encoded pictures are copied once, as they are, into the Arrow cache in `cache_dir` and memory-mapped; videos
        are read where they lie. Raises UserError naming episode and frame when a picture is damaged.
        """
        key, starts = picture_key(camera), [episode.start for episode in self.episodes]
        is_image = self.features[key].dtype == "image"
        column = self._copied(cache_dir, lambda folder: self._mapped([key], folder).column(key)) if is_image else None

        def decode(row: int) -> Picture:
            episode = self.episodes[bisect.bisect_right(starts, row) - 1]
            try:
                if column is not None:
                    picture = decode_picture(column[row].as_py()["bytes"])
                else:
                    path, start_s = self._video(episode, camera)
                    picture = next(decode_video(path, start_s + (row - episode.start) / self.fps, 1, self.fps))
                return self._as_wanted(picture, camera)
            except (UserError, StopIteration) as error:
                frame = f"episode {episode.number}, frame {row - episode.start}"
                raise UserError(f"{self.root}: camera {camera}, {frame}: {one_line(error)}") from error

        return decode

    def _video(self, episode: Episode, camera: str) -> tuple[Path, float]:
        key = picture_key(camera)
        chunk, file, start_s, _ = episode.videos[key]
        return self.root / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file), start_s

    def _as_wanted(self, picture: Picture, camera: str) -> Picture:
        declared = self.features[picture_key(camera)].shape
        if picture.shape != declared:
            raise UserError(f"the picture has shape {picture.shape}, the dataset declares {declared}")
        return resize(picture, self.size)

    def pictures(self, episode: Episode, camera: str) -> Iterator[Picture]:
        """Yield the episode's pictures of one camera in order, decoded, RGB (height, width, 3) uint8 in `size`.

        Raises UserError naming the episode and the frame when a picture is damaged or has another size.
        """
        if self.features[picture_key(camera)].dtype == "video":
            path, start_s = self._video(episode, camera)
            pictures = decode_video(path, start_s, episode.length, self.fps)
        else:
            pictures = (decode_picture(data) for data in self.encoded_pictures(episode, camera))
        count = 0
        try:
            for picture in pictures:
                yield self._as_wanted(picture, camera)
                count += 1
        except UserError as error:
            raise UserError(
                f"{self.root}: camera {camera}, episode {episode.number}, frame {count}: {error}"
            ) from error
        if count != episode.length:
            raise UserError(
                f"{self.root}: camera {camera}, episode {episode.number}: {count} pictures, {episode.length} rows"
            )

    def encoded_pictures(self, episode: Episode, camera: str) -> Iterator[bytes]:
        """Yield the stored JPEG or PNG files of one camera of an episode, in order."""
        path = self.root / DATA_PATH.format(chunk_index=episode.data_file[0], file_index=episode.data_file[1])
        key = picture_key(camera)
        try:
            with pq.ParquetFile(path) as file:
                groups = [
                    i for i in range(file.num_row_groups) if _may_hold(file.metadata.row_group(i), episode.number)
                ]
                columns = [f"{key}.bytes", "episode_index"]
                for batch in file.iter_batches(batch_size=64, row_groups=groups, columns=columns):
                    mine = np.asarray(batch.column("episode_index")) == episode.number
                    if mine.any():
                        yield from batch.filter(pa.array(mine)).column(key).field("bytes").to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} cannot be read: {one_line(error)}") from error

    def _check(self) -> None:
        for key in (STATE, ACTION, "index"):
            if key not in self.features:
                raise UserError(f"{self.root} has no {key}; it has {', '.join(self.features)}")
        if not self.episodes:
            raise UserError(f"{self.root} holds no episodes")
        expected = 0
        for position, episode in enumerate(self.episodes):
            if (episode.number, episode.start) != (position, expected) or episode.length < 1:
                raise UserError(
                    f"{self.root}/meta/episodes: episode {episode.number} does not follow the one before it"
                )
            expected = episode.stop
        if self.info.get("total_frames") != expected:
            raise UserError(
                f"{self.root}: info.json declares {self.info.get('total_frames')} frames, the episodes hold {expected}"
            )


def _feature(raw: dict[str, Any]) -> Feature:
    names = raw.get("names")
    if isinstance(names, dict):  # LeRobot also writes {"motors": [...]}
        names = next(iter(names.values()), None)
    shape = tuple(raw["shape"])
    if raw["dtype"] in PICTURE_DTYPES and names and names[0] in ("channel", "channels"):
        shape = (*shape[1:], shape[0])  # some datasets declare (channels, height, width)
    wrong = len(shape) != 3 if raw["dtype"] in PICTURE_DTYPES else not shape
    if wrong or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"a feature has shape {raw['shape']}")
    if len(shape) == 1 and names and not (len(names) == shape[0] and all(isinstance(name, str) for name in names)):
        raise ValueError(f"a feature of {shape[0]} numbers has the names {names}")
    return Feature(raw["dtype"], shape, tuple(names) if names else None, raw.get("info") or {})


def _files(root: Path) -> dict[Path, tuple[int, int]]:
    stats = ((path, path.stat()) for path in sorted(root.rglob("*")) if path.is_file())
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats}


def _three(feature: Feature) -> tuple[int, int, int]:
    height, width, channels = feature.shape
    return height, width, channels


def _episodes(root: Path) -> Iterator[Episode]:
    for path in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        try:
            names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
            rows = pq.read_table(path, columns=names).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} cannot be read: {one_line(error)}") from error
        for row in rows:
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


def _may_hold(group: pq.RowGroupMetaData, episode: int) -> bool:
    """Whether a row group's statistics allow rows of the episode: other tools put many episodes into one file."""
    columns = (group.column(i) for i in range(group.num_columns))
    statistics = next((c.statistics for c in columns if c.path_in_schema == "episode_index"), None)
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= episode <= statistics.max)


def _array(column: pa.ChunkedArray, feature: Feature) -> npt.NDArray[Any]:
    flat = column
    while pa.types.is_list(flat.type) or pa.types.is_fixed_size_list(flat.type) or pa.types.is_large_list(flat.type):
        flat = pa.chunked_array([chunk.flatten() for chunk in flat.chunks], type=flat.type.value_type)
    values: npt.NDArray[Any] = flat.to_numpy().astype(feature.dtype, copy=False)
    return values if feature.shape == (1,) else values.reshape(len(column), *feature.shape)
