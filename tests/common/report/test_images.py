"""An image on a page is the image it says it is."""

import base64

import cv2
import numpy as np

from common.lerobot.dataset import Dataset
from common.report.images import PageImage, film, film_frames, heat_map, jpeg, sheet
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
    pixels = decode(heat_map(values, np.full(3, 2.0), "errors")).sum(axis=2)
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


def test_a_film_shows_the_first_and_the_last_frame_and_says_when() -> None:
    dataset = Dataset.open(GOLDEN / "dataset_image")
    episode, camera = dataset.episodes[0], next(iter(dataset.cameras))
    frames, images = film_frames(episode.length), film(dataset, episode, camera)
    assert (frames[0], frames[-1]) == (0, episode.length - 1)
    assert [image.caption for image in images] == [f"{frame / dataset.fps:.1f} s" for frame in frames]
    assert images[0].alt == f"Episode 0, camera {camera}, at 0.0 s"
    assert film_frames(1) == [0]
