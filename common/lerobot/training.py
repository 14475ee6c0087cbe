"""What a training needs of an opened dataset; `stage2_train` and `stage1_convert --check` both ask here, so they agree."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from common.cli.command import UserError
from common.lerobot.metadata import ACTION, ENVIRONMENT, STATE

if TYPE_CHECKING:
    from common.lerobot.dataset import Dataset

VECTORS = (STATE, ACTION, ENVIRONMENT)


def require_trainable(dataset: "Dataset") -> None:
    """Raise UserError for cameras that are not RGB, and where a vector lacks the statistics that normalize it."""
    odd = {camera: shape[2] for camera, shape in dataset.cameras.items() if shape[2] != 3}
    for camera, channels in odd.items():
        others = ", ".join(name for name in dataset.cameras if name not in odd)
        way_out = f"leave it out by --override 'data.use_cameras=[{others}]'" if others else "there is no other camera"
        has = f"{channels} channel{'' if channels == 1 else 's'}"
        raise UserError(f"camera {camera} of {dataset.root} has {has}; images must have 3: {way_out}")
    for key in (key for key in VECTORS if key in dataset.features):
        size = dataset.features[key].shape[:1]
        for name in ("mean", "std"):
            found = dataset.stats.get(key, {}).get(name)
            if found is None or found.shape != size or not np.isfinite(found).all():
                shown = "no value" if found is None else found.tolist()
                raise UserError(
                    f"{dataset.root}/meta/stats.json: {key}: {name}: found {shown}, expected {size[0]} finite numbers; "
                    "actions would be wrong without it"
                )


def training_columns(dataset: "Dataset") -> dict[str, npt.NDArray[Any]]:
    """Return the vectors that a training reads, (rows, dimensions) by feature.

    Raises UserError naming file, row and column of a value that cannot be taken or is not finite.
    """
    columns = dataset.columns([key for key in VECTORS if key in dataset.features])
    for key, values in columns.items():
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if bad.size:
            episode = next(e for e in dataset.episodes if e.start <= bad[0] < e.stop)
            frame = int(bad[0]) - episode.start
            raise UserError(
                f"{dataset.rows_path(episode)}: row {dataset.row_in_file(episode, frame)}: {key} is not finite in "
                f"episode {episode.number}, frame {frame}; leave the episode out of data.episodes or convert without it"
            )
    return columns
