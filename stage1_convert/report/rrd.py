"""An episode of a converted dataset as a recording for Rerun: images, joints, and the age of what each frame shows."""

from pathlib import Path

import numpy as np

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.lerobot.metadata import ACTION, STATE
from common.lerobot.values import as_array, read_table
from common.report.rrd import jpeg_files, new_recording, part
from stage1_convert.report.episode import read_sync


def write_recording(path: Path, root: Path, number: int) -> None:
    """Write episode `number` of the dataset at `root` to `path`.

    The images have a timeline of their source stamps; `message` is the number of the message on its topic, and `repeated`
    is 1 where a frame shows the message of the frame before. Raises UserError when there is no such episode.
    """
    dataset = Dataset.open(root)
    if not 0 <= number < len(dataset.episodes):
        raise UserError(f"--rerun-episode {number}: the dataset has episodes 0 to {len(dataset.episodes) - 1}")
    episode, sync = dataset.episodes[number], read_sync(dataset, number)
    rows = read_table(dataset.rows_path(episode), [STATE, ACTION])
    cameras = {camera: f"cameras/{part(camera)}" for camera in dataset.cameras}
    plots = {title: title for title in ("state", "action", "age_ms", "repeated")}
    with new_recording(path, dataset.fps, cameras.values(), plots) as recording:
        for key, entity in ((STATE, "state"), (ACTION, "action")):
            feature = dataset.features[key]
            recording.vectors(entity, as_array(key, rows.column(key), feature), feature.names or ())
        for stream in [name.removesuffix(".stamp_ns") for name in sync if name.endswith(".stamp_ns")]:
            message = sync[f"{stream}.message"]
            recording.numbers(f"age_ms/{part(stream)}", (sync["tick_ns"] - sync[f"{stream}.stamp_ns"]) / 1e6)
            recording.numbers(f"message/{part(stream)}", message)
            recording.numbers(f"repeated/{part(stream)}", np.diff(message, prepend=message[0] - 1) == 0)
        for camera, entity in cameras.items():
            recording.images(entity, jpeg_files(dataset, episode, camera), sync[f"{camera}.stamp_ns"])
