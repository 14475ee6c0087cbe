"""A single image is that of its frame, however the dataset's files hold it."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.cli.command import UserError
from common.lerobot.dataset import Dataset
from common.lerobot.frames import read_frames
from tests.common.lerobot.foreign import DATA, change_cells
from tests.conftest import GOLDEN


@pytest.mark.parametrize("name", ["dataset_image", "dataset_video"])
def test_single_frames_equal_those_of_the_whole_episode(name: str) -> None:
    dataset = Dataset.open(GOLDEN / name)
    episode = dataset.episodes[1]
    images = list(dataset.images(episode, "color"))
    wanted = [0, 3, episode.length - 1]
    for frame, image in zip(wanted, read_frames(dataset, episode, "color", wanted), strict=True):
        assert np.array_equal(image, images[frame])


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_frames_are_found_in_row_groups_of_any_size(rows: int, image_dataset: Path) -> None:
    dataset = Dataset.open(image_dataset)
    images = {episode.number: list(dataset.images(episode, "color")) for episode in dataset.episodes}
    pq.write_table(pq.read_table(image_dataset / DATA), image_dataset / DATA, row_group_size=rows)
    for episode in dataset.episodes:
        frames = range(episode.length)
        assert np.array_equal(list(read_frames(dataset, episode, "color", frames)), images[episode.number])


def test_a_damaged_image_is_named(image_dataset: Path) -> None:
    change_cells(image_dataset, "observation.images.color", lambda cells: cells[2].update(bytes=b"\x89PNG"))
    dataset = Dataset.open(image_dataset)
    with pytest.raises(UserError, match=r"camera color, episode 0, frame 2: .*does not decode \(data/.*, row 2, "):
        list(read_frames(dataset, dataset.episodes[0], "color", [0, 2]))


def test_a_file_without_the_frame_and_one_that_is_cut_off_are_named(image_dataset: Path) -> None:
    dataset = Dataset.open(image_dataset)
    pq.write_table(pq.read_table(image_dataset / DATA)[:30], image_dataset / DATA)
    with pytest.raises(UserError, match=r"episode 1, frame 10: the file does not hold it \(data/.*, row 30, "):
        list(read_frames(dataset, dataset.episodes[1], "color", [9, 10]))
    (image_dataset / DATA).write_bytes((image_dataset / DATA).read_bytes()[:-10])
    with pytest.raises(UserError, match=r"episode 1, frame 0: .*file-000.parquet cannot be read: "):
        list(read_frames(dataset, dataset.episodes[1], "color", [0]))
