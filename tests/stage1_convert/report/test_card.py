"""The card of a dataset says what the dataset holds, and the hub's own code reads it."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard

from common.lerobot.images import decode_image
from common.report.images import FILM_FRAMES, FILM_PX
from tests.stage1_convert.conversion import run
from tests.stage1_convert.recording import cell

SETTINGS = (
    "data.cameras={color: /camera/color/image_raw, wrist: /wrist/image_raw}",
    "data.robot_type=panda",
    "data.task=Put this | that into the box.",
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    for name in ("kitchen/one", "two", "blind"):
        recording = cell(seconds=1.5, seed=len(name), size=(60, 80))
        recording.others = [said._replace(topic="/wrist/image_raw/compressed") for said in recording.images]
        if name == "blind":
            recording.images = []
        recording.write(folder / "src" / name)
    run(folder / "src", folder / "out", *SETTINGS)
    return folder / "out"


@pytest.fixture(scope="module")
def card(dataset: Path) -> DatasetCard:
    return DatasetCard((dataset / "README.md").read_text())


def test_the_hub_reads_what_the_dataset_is(card: DatasetCard, dataset: Path) -> None:
    data = yaml.safe_load(str(card.data))
    assert data.pop("configs") == [{"config_name": "default", "data_files": "data/*/*.parquet"}]
    assert data == {"task_categories": ["robotics"], "tags": ["LeRobot", "panda"]}
    assert len(list(dataset.glob("data/*/*.parquet"))) == 2


def test_the_license_is_a_named_blank_until_it_is_set(card: DatasetCard, dataset: Path, tmp_path: Path) -> None:
    assert "# license: fill this in" in (dataset / "README.md").read_text()
    assert "data.license=NAME" in card.text
    run(dataset.parent / "src", tmp_path / "out", *SETTINGS, "data.license=cc-by-4.0")
    licensed = DatasetCard((tmp_path / "out" / "README.md").read_text())
    assert yaml.safe_load(str(licensed.data))["license"] == "cc-by-4.0"
    assert "| license | cc-by-4.0 |" in licensed.text


def test_it_says_what_is_in_the_files(card: DatasetCard, dataset: Path) -> None:
    frames = sum(pq.read_metadata(path).num_rows for path in dataset.glob("data/*/*.parquet"))
    assert f"2 episodes, {frames} frames at 30 Hz" in card.text
    columns = pq.read_schema(next(dataset.glob("meta/sync/*/*.parquet"))).names
    assert {name.partition(".")[2] for name in columns if "." in name} == {"stamp_ns", "message"}
    assert "of every frame and stream: its number and its stamp." in card.text
    assert r"| task | Put this \| that into the box. |" in card.text
    assert "| cameras | color (80 x 60), wrist (80 x 60) |" in card.text
    assert "| `observation.images.wrist` | image | 60 x 80 x 3 | height, width, channels |" in card.text
    for bag in ("kitchen/one", "two"):
        assert f"| {bag} | 1 | {frames // 2} |" in card.text
    assert "- blind: " in card.text


def test_thumbnails_have_a_row_for_each_camera(card: DatasetCard, dataset: Path) -> None:
    assert "(meta/thumbnails.jpg)" in card.text
    image = decode_image((dataset / "meta" / "thumbnails.jpg").read_bytes())
    assert image.shape == (2 * 120, FILM_FRAMES * FILM_PX, 3)
