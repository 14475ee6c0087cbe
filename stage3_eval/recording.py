"""Read the rows of an episode and the measured positions of its joints."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.lerobot.metadata import ACTION, STATE, Episode
from common.lerobot.values import explain

Columns = dict[str, npt.NDArray[Any]]


def read_rows(dataset: Dataset, episode: Episode, names: Sequence[str]) -> Columns:
    """Return the columns of an episode, (T, dimensions), or (T,) of LeRobot's own columns.

    Raises UserError when rows are missing or a state or action is not finite.
    """
    path = dataset.rows_path(episode)
    missing = [name for name in names if name not in dataset.features]
    if missing:
        raise UserError(f"{dataset.root}/meta/info.json declares no {missing[0]}; convert the dataset again")
    shapes = dataset.stored_shapes([*names, "index", "episode_index"])
    try:
        table = pq.read_table(path, columns=list(shapes), filters=[("episode_index", "=", episode.number)])
        columns = {name: dataset.array(table, name) for name in (*names, "index")}
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise explain(path, shapes, error) from error
    if not np.array_equal(columns.pop("index"), np.arange(episode.start, episode.stop)):
        counts = UserError(
            f"{path}: episode {episode.number} has {len(table)} rows and meta/ declares {episode.length}, or its `index` "
            "column does not count them in order; convert the dataset again"
        )
        raise explain(path, shapes, counts)
    for name in (STATE, ACTION):
        require_finite(columns[name], f"{dataset.root}: {name}", episode, np.arange(episode.length))
    return columns


def positions(dataset: Dataset, state_TS: npt.NDArray[Any], action_meaning: str | None) -> npt.NDArray[Any] | None:
    """Return the measured position of each joint of the action (T, A), None where the state does not hold them.

    They are matched by name. Where names are missing, they are taken in order when the meaning of an action is known, which
    makes it one of joint positions, and the state has as many values.
    """
    names, joints = dataset.features[STATE].names, dataset.features[ACTION].names
    if names and joints:
        return state_TS[:, [names.index(joint) for joint in joints]] if set(joints) <= set(names) else None
    same_size = state_TS.shape[1] == dataset.features[ACTION].shape[0]
    return state_TS if action_meaning and same_size else None


def require_finite(
    values: npt.NDArray[Any],
    what: str,
    episode: Episode,
    frames: npt.NDArray[np.int64],
    remedy: str = "leave the episode out or repair its source",
) -> None:
    """Raise UserError naming the first of `frames` whose values are not all finite."""
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if bad.any():
        where = f"episode {episode.number}, frame {int(frames[bad.argmax()])}"
        raise UserError(f"{what} is not finite: {where}; {remedy}")
