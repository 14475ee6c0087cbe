"""A dataset of 10,000 episodes is opened in seconds and in little memory."""

import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.dataset import Dataset
from common.files import read_json, write_json
from common.worker import Limits, each

EPISODES, FRAMES = 10_000, 300
MOST_CPU_S = 5.0


def open_dataset(root: Path) -> tuple[int, int, float]:
    started_s = time.process_time()
    dataset = Dataset.open(root)
    return len(dataset.episodes), dataset.n_frames, time.process_time() - started_s


def test_ten_thousand_episodes_open_in_seconds(image_dataset: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(image_dataset, tmp_path / "large"))
    path = next((root / "meta" / "episodes").glob("*/*.parquet"))
    one = pq.read_table(path).slice(0, 1)
    table = pa.concat_tables([one] * EPISODES)
    starts = range(0, EPISODES * FRAMES, FRAMES)
    numbers = {
        "episode_index": range(EPISODES),
        "length": [FRAMES] * EPISODES,
        "dataset_from_index": starts,
        "dataset_to_index": [start + FRAMES for start in starts],
    }
    for name, values in numbers.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(
            at, table.schema.field(at), pa.chunked_array([pa.array(values, table.schema.field(at).type)])
        )
    pq.write_table(table, path)
    total = {"total_episodes": EPISODES, "total_frames": EPISODES * FRAMES}
    write_json(root / "meta" / "info.json", read_json(root / "meta" / "info.json") | total)
    (found,) = each(open_dataset, [root], 1, lambda _: Limits(256 << 20, 300))
    assert isinstance(found, tuple), found
    episodes, frames, cpu_s = found
    assert (episodes, frames) == (EPISODES, EPISODES * FRAMES)
    assert cpu_s < MOST_CPU_S
