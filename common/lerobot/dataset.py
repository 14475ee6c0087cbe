"""A LeRobot v3.0 dataset on disk: features, episodes, statistics, columns and images.

This is the contract between the stages. The layout is LeRobot's (`codebase_version` v3.0). Two things it has no place for
are stored beside it: how bags became rows, in `meta/conversion.json`, and what actions mean, in the action feature's `info`.
"""

import functools
import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.command import UserError, one_line
from common.cli.validation import validate
from common.lerobot.images import Image, decode_image, decode_video, image_file, resize
from common.lerobot.info import Info
from common.lerobot.keys import require_names, stored_keys, used_features
from common.lerobot.metadata import (
    ACTION,
    CONVERT_V21,
    DATA_PATH,
    FINGERPRINTED,
    IMAGE_DTYPES,
    IMAGES,
    INDEX_COLUMNS,
    NUMBERS,
    STATE,
    VERSION,
    VIDEO_PATH,
    Episode,
    Feature,
    check_episodes,
    image_key,
    iterate_episodes,
)
from common.lerobot.values import as_array, explain
from common.storage.files import read_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """An opened dataset. Nothing is read beyond meta/ until columns or images are asked for."""

    root: Path
    fps: int
    features: dict[str, Feature]  # by LeRobot's names
    stored: dict[str, str]  # name -> key in the files
    episodes: tuple[Episode, ...]
    info: Info
    size: tuple[int, int] | None = None  # height and width to which every image is resized; None: as stored

    @classmethod
    def open(
        cls, root: Path, rename: Mapping[str, str] | None = None, use_cameras: Collection[str] | None = None
    ) -> "Dataset":
        """Open and check a dataset's metadata; raises UserError naming what is wrong with which file.

        `rename` maps keys of other tools to LeRobot's names, such as state to observation.state; with `use_cameras`, short or
        full names, the other cameras are left out.
        """
        path = root / "meta" / "info.json"
        if not path.is_file():
            raise UserError(f"no dataset in {root}: meta/info.json is missing; make one with python -m stage1_convert")
        raw = read_json(path)
        version = raw.get("codebase_version") if isinstance(raw, dict) else None
        if version != VERSION:
            way_out = f"; {CONVERT_V21}" if version == "v2.1" else ""
            raise UserError(f"{root} is not a LeRobot {VERSION} dataset: its codebase_version is {version!r}{way_out}")
        info = validate(Info, raw, f"{path} is damaged: ")
        try:
            declared = {key: feature.feature() for key, feature in info.features.items()}
            stored = stored_keys(declared, rename or {})
            features = used_features({name: declared[key] for name, key in stored.items()}, use_cameras)
            require_names(features, stored)
        except UserError as error:
            raise UserError(f"{root}: {error}") from error
        dataset = cls(root, info.fps, features, stored, tuple(iterate_episodes(root)), info)
        dataset._check()
        odd = [f"{key}: {declared.odd_names}" for key, declared in info.features.items() if declared.odd_names]
        if odd:
            log.warning("%s declares unusual names; %s", path, "; ".join(odd))
        return dataset

    @property
    def rename(self) -> dict[str, str]:
        """Key in the files -> name, of the features whose names differ."""
        return {key: name for name, key in self.stored.items() if key != name}

    @property
    def n_frames(self) -> int:
        """Number of rows."""
        return self.episodes[-1].stop if self.episodes else 0

    @property
    def cameras(self) -> dict[str, tuple[int, int, int]]:
        """Camera name -> shape (height, width, channels) of the images, resized to `size`, in the dataset's order."""
        found = {}
        for key, feature in self.features.items():
            if feature.dtype in IMAGE_DTYPES:
                height, width, channels = feature.shape
                found[key.removeprefix(IMAGES)] = (*(self.size or (height, width)), channels)
        return found

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

    @property
    def other_units(self) -> tuple[str, ...]:
        """Names of the action's dimensions that are no angles as the others are; none when the dataset does not say."""
        found = self.features[ACTION].info.get("other_units")
        return tuple(name for name in self.joint_names if isinstance(found, list) and name in found)

    @functools.cached_property
    def stats(self) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        """meta/stats.json as arrays, of the features: feature -> min, max, mean, std, count, q01 ... -> values."""
        path = self.root / "meta" / "stats.json"
        raw = read_json(path)
        try:
            return {
                name: {kind: np.atleast_1d(np.asarray(value, np.float64)) for kind, value in raw[key].items()}
                for name, key in self.stored.items()
                if key in raw
            }
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: {one_line(error)}") from error

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of LeRobot's metadata and of the names and sizes of its other files; a copy of the dataset has the same.

        A card whose license was filled in, and a page that was drawn again, do not make another dataset.
        """
        digest = hashlib.sha256()
        for path in sorted(path for path in self.root.rglob("*") if path.is_file()):
            name = path.relative_to(self.root).as_posix()
            if not name.startswith(FINGERPRINTED):
                continue
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            if name.startswith("meta/"):
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def columns(self, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Return whole columns as `array` does.

        Raises UserError naming the first value that cannot be taken, and when rows are missing, surplus or in another order
        than their `index` says.
        """
        data, wanted = self.root / "data", list(dict.fromkeys([*names, "index"]))
        paths = sorted(data.glob("*/*.parquet"))  # the order in which readers concatenate them
        if not paths:
            raise UserError(f"{data} holds no parquet files")
        try:
            table = pq.read_table(paths, columns=[self.stored[name] for name in wanted], partitioning=None)
            arrays = {name: self.array(table, name) for name in wanted}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise explain(data, self.stored_shapes(wanted), error) from error
        index = arrays["index"]
        moved = np.flatnonzero(index != np.arange(len(index)))
        if len(moved):
            place = f"{self.root}/data: row {moved[0]} has index {index[moved[0]]}, expected {moved[0]}"
            raise UserError(f"{place}: rows are missing or in another order; convert the dataset again")
        if len(index) != self.n_frames:
            raise UserError(f"{self.root}/data holds {len(index)} rows, and meta/ declares {self.n_frames}")
        return {name: arrays[name] for name in names}

    def array(self, table: Any, name: str) -> npt.NDArray[Any]:
        """Return a column of a table as (rows, dimensions), or (rows,) for LeRobot's own columns such as `index`.

        Raises ValueError naming the row of a value that cannot be taken.
        """
        return as_array(name, table.column(self.stored[name]), self.features[name])

    def stored_shapes(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of features by their keys in the files."""
        return {self.stored[name]: self.features[name].shape for name in names}

    def video(self, episode: Episode, camera: str) -> tuple[Path, float]:
        """Return the file that holds an episode's video of a camera, and at which second it begins there."""
        key = self.stored[image_key(camera)]
        chunk, file, start_s, _ = episode.videos[key]
        return self.root / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file), start_s

    def video_frame(self, episode: Episode, camera: str, frame: int) -> Image:
        """Decode one frame of an episode's video, in its stored size; raises UserError where the video ends before it."""
        path, start_s = self.video(episode, camera)
        time_s = start_s + frame / self.fps
        for image in decode_video(path, time_s, 1, self.fps):
            return image
        raise UserError(f"{path} ends before {time_s:.3f} s; the video is incomplete")

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
            raise self.image_fault(episode, camera, count, error) from error
        if count != episode.length:
            raise self.count_fault(episode, camera, count)

    def encoded_images(self, episode: Episode, camera: str) -> Iterator[bytes]:
        """Yield the stored JPEG or PNG files of one camera of an episode, in order; raises UserError where there is none."""
        for cell in self.image_cells(episode, camera):
            yield image_file(self.root, cell)

    def image_cells(self, episode: Episode, camera: str) -> Iterator[dict[str, Any] | None]:
        """Yield the cells {bytes, path} of one camera of an episode as they are stored, in order."""
        key, path = self.stored[image_key(camera)], self.rows_path(episode)
        try:
            with pq.ParquetFile(path) as file:
                groups = [
                    i for i in range(file.num_row_groups) if _may_hold(file.metadata.row_group(i), episode.number)
                ]
                for batch in file.iter_batches(64, row_groups=groups, columns=[key, "episode_index"]):
                    for cell, number in zip(batch.column(key), batch.column("episode_index"), strict=True):
                        if number.as_py() == episode.number:
                            yield cell.as_py()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} cannot be read: {one_line(error)}") from error

    def image_fault(self, episode: Episode, camera: str, frame: int, error: Exception) -> UserError:
        """Return the refusal of an image: camera, episode and frame, and file, row and column where it is in a data file."""
        words = f"{self.root}: camera {camera}, episode {episode.number}, frame {frame}: {one_line(error)}"
        key = image_key(camera)
        if self.features[key].dtype == "video":
            return UserError(words)
        file = self.rows_path(episode).relative_to(self.root)
        return UserError(f"{words} ({file}, row {self.row_in_file(episode, frame)}, {self.stored[key]})")

    def count_fault(self, episode: Episode, camera: str, count: int) -> UserError:
        """Return the refusal of an episode with too few or too many images."""
        found = f"{self.root}: camera {camera}, episode {episode.number}: {count} images, {episode.length} rows"
        return explain(self.rows_path(episode), self.stored_shapes(["episode_index"]), UserError(found))

    def row_in_file(self, episode: Episode, frame: int) -> int:
        """Return the row of a frame in the file of its episode."""
        return (
            episode.start + frame - min(other.start for other in self.episodes if other.data_file == episode.data_file)
        )

    def rows_path(self, episode: Episode) -> Path:
        """Return the file that holds an episode's rows."""
        return self.root / DATA_PATH.format(chunk_index=episode.data_file[0], file_index=episode.data_file[1])

    def _check(self) -> None:
        if "index" not in self.features:
            raise UserError(f"{self.root} has no index; it has {', '.join(self.features)}")
        for key, feature in self.features.items():
            if key in (STATE, ACTION, *INDEX_COLUMNS) and (feature.dtype not in NUMBERS or len(feature.shape) > 1):
                found = f"dtype {feature.dtype!r} and shape {list(feature.shape)}"
                raise UserError(f"{self.root}/meta/info.json: {key} has {found}; expected a list of numbers")
        check_episodes(self.root, self.episodes, self.info.total_frames)


def _may_hold(group: pq.RowGroupMetaData, episode: int) -> bool:
    """Return whether a row group may hold rows of the episode: other tools write many episodes into one file."""
    columns = (group.column(i) for i in range(group.num_columns))
    statistics = next((c.statistics for c in columns if c.path_in_schema == "episode_index"), None)
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= episode <= statistics.max)
