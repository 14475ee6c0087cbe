"""An image on a page is the image it says it is."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.report.images import PageImage, film, film_frames, heat_map, jpeg, read_frames, sheet
from tests.conftest import GOLDEN


def decode(image: PageImage) -> np.ndarray:
    data = base64.b64decode(image.url.split(",", 1)[1])
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    assert pixels.shape[:2] == (image.height, image.width)
    return np.asarray(pixels)


def test_a_heat_map_has_a_pixel_per_value_brighter_where_it_is_larger() -> None:
    values = np.zeros((3, 20))
    values[1, 7] = 2.0
    values[2, 3] = 9.0  # more than the top
    pixels = decode(heat_map(values, 2.0, "errors")).sum(axis=2)
    assert pixels.shape == (3, 20)
    assert pixels[1, 7] == pixels[2, 3] == pixels.max()
    assert (pixels[0] == pixels.min()).all()


def test_an_image_keeps_its_colors_and_is_never_enlarged() -> None:
    red = np.zeros((40, 80, 3), np.uint8)
    red[..., 0] = 255
    assert decode(jpeg(red, "red", 200)).shape == (40, 80, 3)
    small = decode(jpeg(red, "red", 20))
    assert small.shape == (10, 20, 3)
    assert small[..., 0].min() > 240
    assert small[..., 1:].max() < 20


def test_a_sheet_holds_its_images_side_by_side_and_knows_the_size_of_one() -> None:
    images = [np.full((40, 80, 3), level, np.uint8) for level in (0, 128, 255)]
    shown = sheet(images, 20)
    assert (shown.width, shown.height) == (20, 10)
    pixels = decode(shown._replace(width=60))
    assert [round(float(pixels[:, start + 5 : start + 15].mean())) for start in (0, 20, 40)] == [0, 128, 255]


@pytest.mark.parametrize("name", ["dataset_image", "dataset_video"])
def test_single_frames_equal_those_of_the_whole_episode(name: str) -> None:
    dataset = Dataset.open(GOLDEN / name)
    episode, camera = dataset.episodes[1], next(iter(dataset.cameras))
    images = list(dataset.images(episode, camera))
    wanted = [0, 3, episode.length - 1]
    for frame, image in zip(wanted, read_frames(dataset, episode, camera, wanted), strict=True):
        assert np.array_equal(image, images[frame])


def test_a_film_shows_the_first_and_the_last_frame_and_says_when() -> None:
    dataset = Dataset.open(GOLDEN / "dataset_image")
    episode, camera = dataset.episodes[0], next(iter(dataset.cameras))
    frames, images = film_frames(episode.length), film(dataset, episode, camera)
    assert (frames[0], frames[-1]) == (0, episode.length - 1)
    assert [image.caption for image in images] == [f"{frame / dataset.fps:.1f} s" for frame in frames]
    assert images[0].alt == f"Episode 0, camera {camera}, at 0.0 s"
    assert film_frames(1) == [0]


def test_a_damaged_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset.open(GOLDEN / "dataset_image")
    episode, camera = dataset.episodes[0], next(iter(dataset.cameras))
    with pytest.raises(UserError, match=rf"camera {camera}, episode 0, frame 2: .*does not decode"):
        list(read_frames(damage(dataset, tmp_path), episode, camera, [0, 2]))


def damage(dataset: Dataset, folder: Path) -> Dataset:
    """Write the dataset's first file again with an image cut off."""
    import shutil
    from dataclasses import replace

    import pyarrow as pa
    import pyarrow.parquet as pq

    root = folder / "damaged"
    shutil.copytree(dataset.root, root)
    path = replace(dataset, root=root).rows_path(dataset.episodes[0])
    table = pq.read_table(path)
    key = next(name for name in table.column_names if name.startswith("observation.images."))
    images = table.column(key).to_pylist()
    images[2]["bytes"] = images[2]["bytes"][:10]
    place = table.column_names.index(key)
    pq.write_table(table.set_column(place, table.field(key), pa.array(images, table.field(key).type)), path)
    return replace(dataset, root=root)
