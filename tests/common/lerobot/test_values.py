"""Values are looked at before they are believed: one line names file, row and column, wherever a dataset is read."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.lerobot.frame_cache import open_frames
from common.lerobot.metadata import ACTION, STATE
from stage1_convert.check import check
from stage3_eval.recording import read_rows
from tests.common.lerobot.foreign import DATA, change_cells, change_info

IMAGE = "observation.images.color"
ROW = 27  # the eighth frame of the second episode
LISTS = pa.list_(pa.float32())


def set_null(cells: list[Any]) -> None:
    cells[ROW] = None


def set_null_inside(cells: list[Any]) -> None:
    cells[ROW] = [*cells[ROW][:5], None]


def shorten(cells: list[Any]) -> None:
    cells[ROW] = cells[ROW][:5]


def shift(cells: list[Any]) -> None:
    """One row has a value too few and the next one too many: the lengths add up."""
    cells[ROW], cells[ROW + 1] = cells[ROW][:5], [*cells[ROW][5:], *cells[ROW + 1]]


FAULTS = [
    pytest.param(STATE, set_null, None, f"{STATE} is null", id="null state"),
    pytest.param(STATE, set_null, LISTS, f"{STATE} is null", id="null state in lists"),
    pytest.param(ACTION, set_null, None, f"{ACTION} is null", id="null action"),
    pytest.param(ACTION, set_null_inside, None, f"{ACTION} holds a null", id="null inside an action"),
    pytest.param(STATE, shorten, LISTS, f"{STATE} has 5 values, the dataset declares", id="short state"),
    pytest.param(ACTION, shift, LISTS, f"{ACTION} has 5 values, the dataset declares", id="lengths that add up"),
    pytest.param("index", set_null, None, "index is null", id="null index"),
]


@pytest.mark.parametrize(("column", "change", "kind", "words"), FAULTS)
def test_a_value_that_cannot_be_taken_is_named_in_training_evaluation_and_check(
    column: str, change: Any, kind: pa.DataType | None, words: str, image_dataset: Path
) -> None:
    change_cells(image_dataset, column, change, kind)
    dataset = Dataset.open(image_dataset)
    place = f"{DATA}: row {ROW}: {words}"
    with pytest.raises(UserError) as training:
        dataset.columns([STATE, ACTION])
    assert place in str(training.value)
    with pytest.raises(UserError) as evaluation:
        read_rows(dataset, dataset.episodes[1], [STATE, ACTION])
    assert place in str(evaluation.value)
    found = [str(finding) for finding in check(image_dataset).findings]
    assert any(place in line for line in found), found


def test_a_null_number_of_an_episode_is_named(image_dataset: Path, tmp_path: Path) -> None:
    change_cells(image_dataset, "episode_index", set_null)
    dataset = Dataset.open(image_dataset)
    with pytest.raises(UserError, match=f"{DATA}: row {ROW}: episode_index is null"):
        read_rows(dataset, dataset.episodes[1], [STATE])
    with pytest.raises(UserError, match=f"{DATA}: row {ROW}: episode_index is null"):
        open_frames(dataset, tmp_path)


@pytest.mark.parametrize("kind", [pa.float64(), pa.int16()])
def test_vectors_of_other_types_are_read_as_float32(kind: pa.DataType, image_dataset: Path) -> None:
    def round_all(cells: list[Any]) -> None:
        cells[:] = [[round(value) for value in cell] for cell in cells]

    change_cells(image_dataset, STATE, round_all, pa.list_(kind, 6))
    change_info(
        image_dataset, lambda info: info["features"][STATE].update(dtype=str(kind).replace("double", "float64"))
    )
    dataset = Dataset.open(image_dataset)
    states = dataset.columns([STATE])[STATE]
    assert states.dtype == read_rows(dataset, dataset.episodes[0], [STATE, ACTION])[STATE].dtype == np.float32
    np.testing.assert_array_equal(states[:20], pq.read_table(image_dataset / DATA)[STATE].to_pylist()[:20])


def test_a_null_in_the_bounds_of_an_episode_is_named(image_dataset: Path) -> None:
    path = image_dataset / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    stops = table.column("dataset_to_index").to_pylist()
    place = table.schema.get_field_index("dataset_to_index")
    pq.write_table(table.set_column(place, "dataset_to_index", pa.array([stops[0], None], pa.int64())), path)
    with pytest.raises(UserError, match="row 1: dataset_to_index is None"):
        Dataset.open(image_dataset)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (None, "the image is null"),
        ({"bytes": None, "path": None}, "the image has neither bytes nor a path"),
        ({"bytes": None, "path": "lost.png"}, "the image has no bytes, and its file 'lost.png' cannot be read"),
        ({"bytes": None, "path": "../../secret.png"}, "outside of the dataset"),
    ],
)
def test_an_image_that_is_not_there_is_named(cell: Any, words: str, image_dataset: Path, tmp_path: Path) -> None:
    def replace(cells: list[Any]) -> None:
        cells[ROW] = cell

    change_cells(image_dataset, IMAGE, replace)
    dataset = Dataset.open(image_dataset)
    place = f"camera color, episode 1, frame 7: .* \\({DATA}, row {ROW}, {IMAGE}\\)"
    with pytest.raises(UserError, match=place) as cached:
        open_frames(dataset, tmp_path / "cache")
    assert words in str(cached.value)
    with pytest.raises(UserError, match=place) as decoded:
        taken(dataset, tmp_path / "cache", ROW)
    assert words in str(decoded.value)
    assert [
        finding for finding in check(image_dataset).findings if words in finding.text and f"row {ROW}" in finding.text
    ]


def test_images_given_by_their_path_are_read(image_dataset: Path, tmp_path: Path) -> None:
    before = [image.copy() for image in Dataset.open(image_dataset).images(episode(image_dataset, 1), "color")]

    def move_out(cells: list[Any]) -> None:
        for row, cell in enumerate(cells):
            name = f"images/{IMAGE}/frame-{row:06d}.png"
            (image_dataset / name).parent.mkdir(parents=True, exist_ok=True)
            (image_dataset / name).write_bytes(cell["bytes"])
            cells[row] = {"bytes": None, "path": name}

    change_cells(image_dataset, IMAGE, move_out)
    dataset = Dataset.open(image_dataset)
    np.testing.assert_array_equal(before, list(dataset.images(dataset.episodes[1], "color")))
    np.testing.assert_array_equal(taken(dataset, tmp_path / "cache", ROW), before[7])
    assert not [finding for finding in check(image_dataset).findings if "data/" in finding.text]


def episode(root: Path, number: int) -> Any:
    return Dataset.open(root).episodes[number]


def taken(dataset: Dataset, cache: Path, row: int) -> np.ndarray:
    """The image of a row, decoded at its use."""
    images = np.empty((1, 64, 96, 3), np.uint8)
    open_frames(dataset, cache, "none")["color"].take(np.array([row]), images)
    image: np.ndarray = images[0]
    return image
