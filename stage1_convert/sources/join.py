"""Joins bags that were recorded side by side, such as the arm in one and the cameras in another, for `--join`.

Bags belong together when their times overlap for more than half of the shorter one and no topic is in both. A joined bag is a
temporary folder of links to their storage files; nothing is copied.
"""

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import yaml

from common.cli.command import UserError
from common.storage.worker import map_isolated
from stage1_convert.bags.bag import open_bag
from stage1_convert.bags.storage import SIDECARS, limits_for, storage_files
from stage1_convert.sources.source import BagPath

EVERYWHERE = ("/tf", "/tf_static", "/rosout", "/parameter_events", "/clock", "/diagnostics", "/events/write_split")


class _Extent(NamedTuple):
    """When a bag was recorded, and the topics it has messages on."""

    start_ns: int
    end_ns: int
    topics: frozenset[str]


def join_parallel(bags: Sequence[BagPath], folder: Path) -> list[BagPath]:
    """Return the bags with those that were recorded side by side as one; joined ones are made below `folder`.

    Raises UserError when none were: then --join is a mistake.
    """
    groups = _groups(bags)
    if not any(len(group) > 1 for group in groups):
        raise UserError(
            "--join: no two bags were recorded at the same time with different topics; leave it out, or look at them with "
            "--inspect"
        )
    return sorted(_link(group, folder) if len(group) > 1 else group[0] for group in groups)


def _groups(bags: Sequence[BagPath]) -> list[list[BagPath]]:
    """Return the bags in groups of those that belong together, directly or by way of others."""
    sizes = [sum(file.stat().st_size for file in _files(bag.path)) for bag in bags]
    with contextlib.closing(map_isolated(_read_extent, list(bags), 1, lambda _: limits_for(max(sizes)))) as answers:
        extents = list(answers)
    groups: list[list[int]] = []
    for number, extent in enumerate(extents):
        near = [group for group in groups if any(_belong_together(extent, extents[other]) for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append(sorted([number, *(other for group in near for other in group)]))
    return [[bags[number] for number in group] for group in groups]


def _belong_together(one: _Extent | UserError, two: _Extent | UserError) -> bool:
    if isinstance(one, UserError) or isinstance(two, UserError):
        return False  # the conversion says what is wrong with it
    shared_ns = min(one.end_ns, two.end_ns) - max(one.start_ns, two.start_ns)
    shorter_ns = min(one.end_ns - one.start_ns, two.end_ns - two.start_ns)
    return shared_ns > shorter_ns / 2 and not one.topics & two.topics


def _read_extent(bag: BagPath) -> _Extent | UserError:
    try:
        with tempfile.TemporaryDirectory() as scratch, open_bag(bag.path, Path(scratch), "humble") as opened:
            topics = {name for name, topic in opened.topics.items() if topic.declared and name not in EVERYWHERE}
            return _Extent(*opened.span_ns, frozenset(topics))
    except UserError as error:
        return error


def _link(group: Sequence[BagPath], folder: Path) -> BagPath:
    """Return a bag of links to the files of several."""
    name = "+".join([group[0].name, *(PurePosixPath(bag.name).name for bag in group[1:])])
    joined = folder / name
    joined.mkdir(parents=True)
    for number, bag in enumerate(group):
        for file in _files(bag.path):
            (joined / f"{number}_{file.name}").symlink_to(file.resolve())
    names = [file.name for file in storage_files(joined)]
    information = {"relative_file_paths": names, "topics_with_message_count": []}
    (joined / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": information}))
    return BagPath(name, joined)


def _files(bag: Path) -> list[Path]:
    """Return the storage files of a bag and what sqlite left beside them."""
    files = storage_files(bag) if bag.is_dir() else [bag]
    logs = [file.with_name(file.name + ending) for file in files for ending in SIDECARS]
    return [*files, *(log for log in logs if log.is_file())]
