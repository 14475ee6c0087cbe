"""A dataset of 10,000 episodes opens in seconds and in little memory; an hour's bag converts within 600 MB.

The long form converts an hour of 500 Hz joint states and 30 Hz images, the short form four minutes.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.lerobot.dataset import Dataset
from common.storage.files import read_json, write_json
from common.storage.worker import Limits, map_isolated
from tests.conftest import ROOT
from tests.reliability.harness import SOAK
from tests.stage1_convert.conversion import report, run
from tests.stage1_convert.longbag import write_long_bag
from tests.stage1_convert.memory import memory_of

EPISODES, FRAMES = 10_000, 300
MOST_CPU_S = 5.0
JOINT_HZ, FPS = 500, 30
MINUTES = 60 if SOAK else 4
MOST_BYTES = 600 << 20
MOST_GROWN_BYTES = (80 << 20) + MINUTES * (6 << 20)
EPISODE_MINUTES = MINUTES // 2


def open_dataset(root: Path) -> tuple[int, int, float]:
    started_s = time.process_time()
    dataset = Dataset.open(root)
    return len(dataset.episodes), dataset.n_frames, time.process_time() - started_s


def test_ten_thousand_episodes_open_in_seconds(image_dataset: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(image_dataset, tmp_path / "large"))
    path = next((root / "meta" / "episodes").glob("*/*.parquet"))
    episode = pq.read_table(path).slice(0, 1)
    table = pa.concat_tables([episode] * EPISODES)
    starts = range(0, EPISODES * FRAMES, FRAMES)
    numbers = {
        "episode_index": range(EPISODES),
        "length": [FRAMES] * EPISODES,
        "dataset_from_index": starts,
        "dataset_to_index": [start + FRAMES for start in starts],
    }
    for name, values in numbers.items():
        column, field = table.schema.get_field_index(name), table.schema.field(name)
        table = table.set_column(column, field, pa.chunked_array([pa.array(values, field.type)]))
    pq.write_table(table, path)
    total = {"total_episodes": EPISODES, "total_frames": EPISODES * FRAMES}
    write_json(root / "meta" / "info.json", read_json(root / "meta" / "info.json") | total)
    (found,) = map_isolated(open_dataset, [root], 1, lambda _: Limits(256 << 20, 300))
    assert isinstance(found, tuple), found
    episodes, frames, cpu_s = found
    assert (episodes, frames) == (EPISODES, EPISODES * FRAMES)
    assert cpu_s < MOST_CPU_S


def convert_long(folder: Path) -> tuple[int, int, int]:
    """Return the number of episodes, and the memory that the process had before and at most during their conversion."""
    source = write_long_bag(folder / "long.mcap", MINUTES * 60, JOINT_HZ, FPS)
    settings = f"data.fps={FPS}", "data.max_age_ms=150", f"data.max_episode_s={EPISODE_MINUTES * 60}"
    before, most = memory_of(lambda: run(source, folder / "out", *settings))
    (bag,) = report(folder / "out")["bags"]
    assert bag["messages"]["/joint_states"]["read"] == MINUTES * 60 * JOINT_HZ
    assert (
        sum(episode["frames"] for episode in bag["episodes"]) == MINUTES * 60 * FPS - 1
    )  # the grid begins between two images
    return len(bag["episodes"]), before, most


def convert_isolated(folder: Path) -> None:
    """Print what convert_long returns in a worker, which is limited to MOST_BYTES."""
    (found,) = map_isolated(convert_long, [folder], 1, lambda _: Limits(MOST_BYTES, 1200))
    assert isinstance(found, tuple), found
    print(json.dumps(found))


def test_an_hour_converts_within_600_mb(tmp_path: Path) -> None:
    # Not from this process, whose memory the other tests have filled.
    call = f"from {__name__} import *; convert_isolated(Path({str(tmp_path)!r}))"
    ended = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    episodes, before, most = json.loads(ended.stdout)
    assert episodes == 2
    print(f"{MINUTES} minutes take {most >> 20} MB, {(most - before) >> 20} MB of them for the bag")
    assert most < MOST_BYTES
    assert most - before < MOST_GROWN_BYTES
