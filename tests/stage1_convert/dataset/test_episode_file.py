"""An episode's file: equal rows are equal bytes, at once or renumbered, in one row group or in many."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.lerobot.metadata import Feature
from stage1_convert.dataset import episode_file
from stage1_convert.dataset.episode_file import EpisodeOffset, EpisodeWriter, data_schema, read_offset, renumber

INTEGERS = ("frame_index", "episode_index", "index", "task_index")
SCHEMA = data_schema(
    {"action": Feature("float32", (2,), None, {}), "observation.images.color": Feature("image", (4, 4, 3), None, {})}
    | {key: Feature("int64", (1,), None, {}) for key in INTEGERS}
)


def batches() -> Iterator[pa.RecordBatch]:
    """Yield 50 rows in batches of 8."""
    rng = np.random.default_rng(0)
    for first in range(0, 50, 8):
        rows = range(first, min(first + 8, 50))
        actions = pa.array(rng.normal(size=2 * len(rows)).astype(np.float32))
        files = pa.array([rng.bytes(100) for _ in rows], pa.binary())
        names = pa.array([f"frame-{row:06d}.jpg" for row in rows])
        columns = {
            "action": pa.FixedSizeListArray.from_arrays(actions, 2),
            "observation.images.color": pa.StructArray.from_arrays([files, names], ["bytes", "path"]),
            "frame_index": pa.array(list(rows)),
        }
        yield pa.record_batch(columns)


def write_rows(path: Path, offset: EpisodeOffset) -> None:
    """Write the rows as an episode's file."""
    writer = EpisodeWriter(path, SCHEMA, offset)
    for batch in batches():
        writer.add(batch)
    writer.close()


@pytest.fixture(params=[1, 3, 7], ids=lambda groups: f"{groups} row groups")
def groups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many row groups 50 rows make."""
    monkeypatch.setattr(episode_file, "GROUP_BYTES", {1: 1 << 20, 3: 2500, 7: 100}[request.param])
    return int(request.param)


def test_rows_are_numbered_through_all_row_groups(tmp_path: Path, groups: int) -> None:
    write_rows(tmp_path / "rows", EpisodeOffset(7, 1000, 2))
    assert pq.read_metadata(tmp_path / "rows").num_row_groups == groups
    table = pq.read_table(tmp_path / "rows").to_pydict()
    assert table["index"] == list(range(1000, 1050))
    assert table["frame_index"] == list(range(50))
    assert (set(table["episode_index"]), set(table["task_index"])) == ({7}, {2})
    assert read_offset(tmp_path / "rows") == EpisodeOffset(7, 1000, 2)


def test_renumbered_rows_are_the_bytes_that_writing_them_gives(tmp_path: Path, groups: int) -> None:
    write_rows(tmp_path / "first", EpisodeOffset(0, 0, 0))
    write_rows(tmp_path / "wanted", EpisodeOffset(9, 123, 1))
    renumber(tmp_path / "first", tmp_path / "moved", EpisodeOffset(9, 123, 1))
    assert (tmp_path / "moved").read_bytes() == (tmp_path / "wanted").read_bytes()
    assert (tmp_path / "moved").read_bytes() != (tmp_path / "first").read_bytes()
    assert pq.read_metadata(tmp_path / "moved").num_row_groups == groups


def test_images_are_not_compressed_again(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", EpisodeOffset(0, 0, 0))
    group = pq.read_metadata(tmp_path / "rows").row_group(0)
    columns = {group.column(at).path_in_schema: group.column(at) for at in range(group.num_columns)}
    files = columns.pop("observation.images.color.bytes")
    assert (files.compression, files.statistics, files.has_dictionary_page) == ("UNCOMPRESSED", None, False)
    assert {column.compression for column in columns.values()} == {"SNAPPY"}
