"""What is known of the bags while they are converted: how far they are, and where the rows of each will be."""

from pathlib import Path

from stage1_convert.dataset.episode_file import UNPLACED, EpisodeOffset
from stage1_convert.pipeline.progress import Progress, Totals


def test_a_bag_begins_where_those_before_it_end_and_knows_their_tasks(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress", [10, 10, 10, 10])
    progress.plan(0, 300, 2, "stack")
    progress.plan(1, 0)
    progress.plan(2, 100, 1, "pour")
    progress.plan(3, 50, 1, "stack")
    again = Progress(tmp_path / "progress")  # as another process
    offsets = [again.offset(bag, 0.0) for bag in (0, 2, 3)]
    assert offsets == [EpisodeOffset(0, 0, 0), EpisodeOffset(2, 300, 1), EpisodeOffset(3, 400, 0)]


def test_a_bag_does_not_wait_long_for_one_that_is_not_planned(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress", [10, 10])
    progress.plan(1, 100, 1, "pour")
    assert progress.offset(1, 0.05) == UNPLACED


def test_the_frames_to_come_are_estimated_by_the_bags_sizes(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress", [10, 30])
    progress.plan(0, 100, 1, "pour")
    progress.add(0, 60)
    assert progress.totals() == Totals(begun=1, written=60, expected=400.0)
