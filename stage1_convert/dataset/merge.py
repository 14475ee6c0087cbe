"""Datasets in; one dataset that holds all of their episodes out.

Shards of one conversion give the very dataset that one conversion of all bags would have given, those without an episode
add their refused bags to its record. Any other LeRobot v3.0
datasets with the same features are appended (append.py) in the order in which they are named.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli.command import UserError
from common.cli.config import load
from common.lerobot.dataset import Dataset
from common.storage.files import new_folder, require_ours, write_json
from stage1_convert.config import Config
from stage1_convert.dataset.append import append
from stage1_convert.pipeline.assemble import SIZE_FAULT, Assembly
from stage1_convert.pipeline.cache import REPORT, adopt, parts_folder, record_of
from stage1_convert.pipeline.convert import Summary, require_episodes, summarize


def merge(datasets: Sequence[Path], out: Path) -> Summary:
    """Join `datasets` into one that takes the name `out` when it is complete.

    Raises UserError when one of them is no dataset, is `out` itself, or does not fit the first.
    """
    roots, out = [path.resolve() for path in datasets], out.resolve()
    require_ours(out, "converted dataset", sign=REPORT)
    for root in roots:
        if root == out or out in root.parents or root in out.parents:
            raise UserError(f"--out {out} and --merge {root} lie inside each other; choose another --out")
    empty = [root for root in roots if (root / REPORT).is_file() and not (root / "meta" / "info.json").exists()]
    opened = [Dataset.open(root) for root in roots if root not in empty]
    records = [record_of(root) for root in roots]
    if len(roots) > 1 and _are_shards(records):
        return _join(roots, records, out)
    if empty:
        raise UserError(
            f"{empty[0]} is a shard without an episode, and the others are not of its conversion: leave it out"
        )
    with new_folder(out, manifest=False) as root:
        frames = append(opened, records, root)
    return Summary(len(opened), sum(len(dataset.episodes) for dataset in opened), frames, [], [], 0)


def _are_shards(records: Sequence[dict[str, Any]]) -> bool:
    """Tell whether all records are of the same conversion, each of other bags."""
    heads = [{key: value for key, value in record.items() if key != "bags"} for record in records]
    names = [bag["bag"] for record in records for bag in record.get("bags", [])]
    return "config" in heads[0] and all(head == heads[0] for head in heads) and len(set(names)) == len(names)


def _join(roots: Sequence[Path], records: Sequence[dict[str, Any]], out: Path) -> Summary:
    with parts_folder(out) as parts:
        bags = [bag for root in roots for bag in adopt(root, parts)]
        _check_complete(bags, parts)
        write_json(parts / "config.json", records[0]["config"])
        config = load(Config, parts / "config.json")
        with new_folder(out, manifest=False) as root:
            assembly = Assembly(root, parts, config)
            for bag in sorted(bags, key=lambda bag: str(bag["bag"])):
                if bag["status"] == "converted":
                    assembly.add(bag["bag"], bag["key"])
                else:
                    assembly.refuse(
                        bag["bag"], {k: v for k, v in bag.items() if k not in ("bag", "status", "episodes")}
                    )
            summary = summarize(assembly, 0)
            require_episodes(summary)
            assembly.finish(records[0])  # whoever joins the shards, those versions made their rows
    return summary


def _check_complete(bags: Sequence[dict[str, Any]], parts: Path) -> None:
    for bag in bags:
        if bag["status"] == "converted" and not (parts / bag["key"]).is_dir():
            raise UserError(f"bag {bag['bag']}: its rows are not as its record says; convert its shard again")
        if bag["status"] == "refused" and str(bag["reason"]).endswith(SIZE_FAULT):
            # Its shard compared it with that shard's first bag; the whole might have taken it.
            raise UserError(f"bag {bag['bag']} was refused in its shard: {bag['reason']}, and convert again")
