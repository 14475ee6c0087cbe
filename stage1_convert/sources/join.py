"""Joins bags that were recorded side by side, such as the arm in one and the cameras in another, for `--join`.

Bags belong together when their times overlap for more than half of the shorter one and no topic is in both. A joined bag is a
temporary folder of links to their storage files; nothing is copied.
"""

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import yaml

from common.cli.command import UserError
from common.storage.worker import map_isolated
from stage1_convert.bags.bag import open_bag
from stage1_convert.bags.storage import content_files, limits_for, storage_files
from stage1_convert.sources.source import BagPath

EVERYWHERE = ("/tf", "/tf_static", "/rosout", "/parameter_events", "/clock", "/diagnostics", "/events/write_split")


class _Extent(NamedTuple):
    """When a bag was recorded, the topics it has messages on, and its custom data; empty for one that cannot be read."""

    bag: BagPath
    start_ns: int = 0
    end_ns: int = 0
    topics: frozenset[str] = frozenset()
    custom: Mapping[str, str] | None = None


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
    return sorted(_link(group, folder) if len(group) > 1 else group[0].bag for group in groups)


def describe_parallel(bags: Sequence[BagPath]) -> str:
    """Return which of these bags were recorded side by side, and what joins them; "" when none were."""
    groups = [group for group in _groups(bags) if len(group) > 1]
    if not groups:
        return ""
    first = " and ".join(extent.bag.name for extent in groups[0])
    more = f", and so were {len(groups) - 1} more groups" if len(groups) > 1 else ""
    return f"{first} were recorded at the same time with different topics{more}: --join makes one bag of them"


def _groups(bags: Sequence[BagPath]) -> list[list[_Extent]]:
    """Return the bags in groups of those that belong together, directly or by way of others."""
    sizes = [sum(file.stat().st_size for file in content_files(bag.path)) for bag in bags]
    with contextlib.closing(map_isolated(_read_extent, list(bags), 1, lambda _: limits_for(max(sizes)))) as answers:
        found = zip(bags, answers, strict=True)
        extents = [_Extent(bag) if isinstance(answer, UserError) else answer for bag, answer in found]
    groups: list[list[int]] = []
    for number, extent in enumerate(extents):
        near = [group for group in groups if any(_belong_together(extent, extents[other]) for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append(sorted([number, *(other for group in near for other in group)]))
    return [[extents[number] for number in group] for group in groups]


def _belong_together(left: _Extent, right: _Extent) -> bool:
    shared_ns = min(left.end_ns, right.end_ns) - max(left.start_ns, right.start_ns)
    shorter_ns = min(left.end_ns - left.start_ns, right.end_ns - right.start_ns)
    return shared_ns > shorter_ns / 2 and not left.topics & right.topics


def _read_extent(bag: BagPath) -> _Extent:
    try:
        with tempfile.TemporaryDirectory() as scratch, open_bag(bag.path, Path(scratch), "humble") as opened:
            topics = {name for name, topic in opened.topics.items() if topic.declared and name not in EVERYWHERE}
            return _Extent(bag, *opened.span_ns, frozenset(topics), opened.custom)
    except UserError:
        return _Extent(bag)  # the conversion says what is wrong with it


def _link(group: Sequence[_Extent], folder: Path) -> BagPath:
    """Return a bag of links to the files of several, with the custom data of all; that of the first one counts."""
    name = "+".join([group[0].bag.name, *(PurePosixPath(extent.bag.name).name for extent in group[1:])])
    joined = folder / name
    joined.mkdir(parents=True)
    custom: dict[str, str] = {}
    for number, extent in enumerate(group):
        custom = {**(extent.custom or {}), **custom}
        for file in content_files(extent.bag.path):
            if file.name != "metadata.yaml":
                (joined / f"{number}_{file.name}").symlink_to(file.resolve())
    names = [file.name for file in storage_files(joined)]
    information = {"relative_file_paths": names, "topics_with_message_count": [], "custom_data": custom}
    (joined / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": information}))
    return BagPath(name, joined)
