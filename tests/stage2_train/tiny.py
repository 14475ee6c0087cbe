"""Datasets and trainings so small that a run takes a fraction of a second."""

import json
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli.config import load
from common.lerobot.dataset import Dataset
from common.lerobot.frame_cache import open_frames
from common.lerobot.metadata import INDEX_COLUMNS
from stage2_train.batches import FrameStore
from stage2_train.config import TrainConfig
from tests.reliability.harness import Command, Warm

# No camera unless a test wants one: the backbone's 11 million weights would make every checkpoint 130 MB.
TINY = [
    "model.chunk_size=5",
    "model.dim_model=16",
    "model.n_heads=2",
    "model.dim_feedforward=24",
    "model.n_encoder_layers=1",
    "model.n_vae_encoder_layers=1",
    "model.latent_dim=4",
    "training.batch_size=4",
    "training.steps=12",
    "training.log_freq=3",
    "training.save_freq=4",
    "training.lr=1e-3",
    "training.device=cpu",
    "training.num_workers=1",
]
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# With TINY: held-out losses at 5, 10 and 12, checkpoints at 4, 8 and 12, log lines at 3, 6, 9 and at each of these.
VALIDATED = ("data.val_fraction=0.34", "training.val_freq=5")


def write_dataset(
    root: Path,
    lengths: Sequence[int] = (9, 12, 10),
    cameras: Mapping[str, tuple[int, int]] = {},
    environment: int = 0,
    sizes: tuple[int, int] = (3, 2),
) -> Path:
    """A LeRobot v3.0 dataset with 3 joints, 2 actions and PNG images; one parquet file per episode."""
    rng = np.random.default_rng(0)
    vectors = dict(zip(("observation.state", "action"), sizes, strict=True))
    if environment:
        vectors["observation.environment_state"] = environment
    stops = np.cumsum(lengths).tolist()
    rows = [(i, stop - length, stop, 0, i) for i, (length, stop) in enumerate(zip(lengths, stops, strict=True))]
    tables = [_episode(rng, number, start, stop, vectors, cameras) for number, start, stop, *_ in rows]
    for number, table in enumerate(tables):
        _write(root / f"data/chunk-000/file-{number:03d}.parquet", table)
    keys = ("episode_index", "dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index")
    episodes = pa.Table.from_pylist([dict(zip(keys, row, strict=True)) for row in rows])
    _write(root / "meta/episodes/chunk-000/file-000.parquet", episodes)

    joined = pa.concat_tables([table.select(list(vectors)) for table in tables])
    whole = {key: np.array(joined[key].to_pylist(), np.float64) for key in vectors}
    stats = {key: {"mean": values.mean(0).tolist(), "std": values.std(0).tolist()} for key, values in whole.items()}
    (root / "meta/stats.json").write_text(json.dumps(stats))
    features: dict[str, object] = {k: {"dtype": "float32", "shape": [n], "names": None} for k, n in vectors.items()}
    for camera, size in cameras.items():
        names = ["height", "width", "channels"]
        features[f"observation.images.{camera}"] = {"dtype": "image", "shape": [*size, 3], "names": names}
    features |= {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in INDEX_COLUMNS.items()}
    info = {"codebase_version": "v3.0", "fps": 30, "total_frames": stops[-1], "total_episodes": len(lengths)}
    (root / "meta/info.json").write_text(json.dumps({**info, "features": features}))
    return root


def _episode(
    rng: np.random.Generator,
    number: int,
    start: int,
    stop: int,
    vectors: Mapping[str, int],
    cameras: Mapping[str, tuple[int, int]],
) -> pa.Table:
    """Random vectors and PNG images of the rows start .. stop-1."""
    length = stop - start
    columns: dict[str, pa.Array] = {}
    for key, n in vectors.items():
        values = rng.normal(size=(length, n)).astype(np.float32)
        flat = values.ravel()
        columns[key] = pa.array(flat) if n == 1 else pa.FixedSizeListArray.from_arrays(flat, n)
    for camera, size in cameras.items():
        images = (rng.integers(0, 255, (*size, 3), np.uint8) for _ in range(length))
        rows = [{"bytes": cv2.imencode(".png", image)[1].tobytes(), "path": None} for image in images]
        columns[f"observation.images.{camera}"] = pa.array(rows, IMAGE_TYPE)
    columns |= {"timestamp": pa.array(np.arange(length, dtype=np.float32) / 30)}
    columns |= {"frame_index": pa.array(range(length)), "episode_index": pa.array([number] * length)}
    columns |= {"index": pa.array(range(start, stop)), "task_index": pa.array([0] * length)}
    return pa.table(columns)


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def open_store(dataset: Dataset, cache: Path) -> FrameStore:
    """Columns and decoded images of a dataset, cached in a folder."""
    return FrameStore(dataset, open_frames(dataset, cache))


def paths(dataset: Path, out: Path) -> list[str]:
    """The overrides for dataset, output folder, and a cache beside the output folder."""
    return [f"data.dataset={dataset}", f"data.cache_dir={out.parent / 'cache'}", f"training.output_dir={out}"]


def tiny_config(dataset: Path, out: Path, *overrides: str) -> TrainConfig:
    """The configuration of a tiny run."""
    return load(TrainConfig, None, [*TINY, *paths(dataset, out), *overrides])


def metrics(out: Path) -> list[dict[str, float]]:
    """The lines that a run has logged so far."""
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def without_times(out: Path) -> list[dict[str, float]]:
    """The metrics that two equal runs must agree on."""
    timed = ("step_s", "data_wait_s", "samples_per_s", "memory_gb")
    return [{key: value for key, value in row.items() if key not in timed} for row in metrics(out)]


def stopped_at(whole: Path, step: int, out: Path) -> Path:
    """Copy a complete run and leave what it had when it died right after the checkpoint of `step`, plus later log lines."""
    shutil.copytree(whole, out)
    for folder in out.glob("checkpoint_*"):
        if int(folder.name[-6:]) > step:
            shutil.rmtree(folder)
    return out


def content(out: Path) -> dict[str, bytes]:
    """Every file of the checkpoints except those that hold paths, and the manifests, which hash them."""
    names = {"train_config.json", "manifest.json"}
    files = (
        path for path in out.rglob("*") if path.is_file() and path.parts[len(out.parts)].startswith(("check", "best"))
    )
    return {str(path.relative_to(out)): path.read_bytes() for path in files if path.name not in names}


def start(
    warm: Warm,
    dataset: Path,
    out: Path,
    *overrides: str,
    world_size: int = 1,
    die_at: int = 0,
    module: str = "stage2_train",
) -> list[Command]:
    """Fork a run as `world_size` processes, with the environment that torchrun would give them.

    With `die_at` = n the first rank is killed at its n-th change to the file system.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        warm.start(
            out.with_name(f"{out.name}.{rank}.log"),
            *(module, "--override", *TINY, *paths(dataset, out), *overrides),
            die_at=die_at if rank == 0 else 0,
            **{**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world_size)
    ]


def finish(commands: Sequence[Command], timeout_s: float = 200) -> list[int]:
    """Wait for all processes; returns their exit codes."""
    return [command.join(timeout_s).code for command in commands]


def train_as(
    world_size: int, warm: Warm, dataset: Path, out: Path, *overrides: str, module: str = "stage2_train"
) -> Path:
    """Train as so many processes to the end, each of which must exit with 0; returns the output folder."""
    commands = start(warm, dataset, out, *overrides, world_size=world_size, module=module)
    assert finish(commands) == [0] * world_size, stderr(out)
    return out


def stderr(out: Path, rank: int = 0) -> str:
    """What a rank printed in its last start."""
    return out.with_name(f"{out.name}.{rank}.log").read_text()
