"""A dataset of 10,000 episodes is opened in seconds and in little memory; a bag of a day is converted in no more memory
than one of minutes.

The long form converts 24 h of 500 Hz joint states and 30 Hz images, the short one 20 minutes at 1 kHz: a
thirtieth as many.
"""

import shutil
import time
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from common.lerobot.dataset import Dataset
from common.storage.files import read_json, write_json
from common.storage.worker import Limits, map_isolated
from tests.reliability.harness import SOAK
from tests.stage1_convert.conversion import report, run
from tests.stage1_convert.longbag import write_long_bag
from tests.stage1_convert.memory import grown_bytes

EPISODES, FRAMES = 10_000, 300
MOST_CPU_S = 5.0
MOST_MORE_BYTES = 48 << 20 if SOAK else 16 << 20
JOINT_HZ, FPS = (500, 30) if SOAK else (1000, 10)
MINUTES, EPISODE_MINUTES = ((60, 24 * 60), 30) if SOAK else ((2, 20), 2)


class Long(NamedTuple):
    """A bag to be, below a folder."""

    folder: Path
    minutes: int


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
    (found,) = map_isolated(open_dataset, [root], 1, lambda _: Limits(256 << 20, 300))
    assert isinstance(found, tuple), found
    episodes, frames, cpu_s = found
    assert (episodes, frames) == (EPISODES, EPISODES * FRAMES)
    assert cpu_s < MOST_CPU_S


def convert_long(bag: Long) -> tuple[int, int]:
    """Return the number of episodes, and how much memory their conversion took."""
    source = write_long_bag(bag.folder / f"{bag.minutes}.mcap", bag.minutes * 60, JOINT_HZ, FPS)
    out = bag.folder / f"{bag.minutes}"
    settings = f"data.fps={FPS}", "data.max_age_ms=150", f"data.max_episode_s={EPISODE_MINUTES * 60}"
    grown = grown_bytes(lambda: run(source, out, *settings))
    (told,) = report(out)["bags"]
    count = bag.minutes * 60
    assert told["messages"]["/joint_states"]["read"] == count * JOINT_HZ
    assert sum(episode["frames"] for episode in told["episodes"]) == count * FPS
    return len(told["episodes"]), grown


def test_memory_does_not_grow_with_a_bags_length(tmp_path: Path) -> None:
    peaks = []
    for minutes in MINUTES:
        (found,) = map_isolated(convert_long, [Long(tmp_path, minutes)], 1, lambda _: Limits(512 << 20, 7200))
        assert isinstance(found, tuple), found
        episodes, grown = found
        assert episodes == minutes // EPISODE_MINUTES
        peaks.append(grown)
    print(f"{MINUTES} minutes take {[peak >> 20 for peak in peaks]} MB")
    assert peaks[1] - peaks[0] < MOST_MORE_BYTES
