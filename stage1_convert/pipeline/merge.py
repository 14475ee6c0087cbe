"""Shards of one conversion become the very dataset that one conversion of all bags would have given."""

from collections.abc import Sequence
from pathlib import Path

from common.cli.command import UserError
from common.cli.config import load
from common.storage.files import new_folder, require_ours, write_json
from stage1_convert.config import Config
from stage1_convert.dataset.record import RECORD_PATH, BagEntry, ConversionRecord, read_record
from stage1_convert.pipeline.assemble import SIZE_REMEDY, Assembly
from stage1_convert.pipeline.cache import locked_cache, reuse
from stage1_convert.pipeline.convert import Summary, check_apart, require_episodes, summarize

OTHER_TOOL = (
    "--merge joins the shards of one conversion; LeRobot joins other datasets: "
    "lerobot-edit-dataset --operation.type merge"
)


def merge(shards: Sequence[Path], out: Path, workers: int = 0) -> Summary:
    """Join `shards` into a dataset that takes the name `out` when it is complete, by so many processes besides this one.

    Raises UserError when one of them is no shard of the same conversion as the first, or is damaged.
    """
    roots, out = [path.resolve() for path in shards], out.resolve()
    require_ours(out, "converted dataset", sign=RECORD_PATH)
    for root in roots:
        check_apart(root, out, "--merge")
    records = [_read_shard(root) for root in roots]
    bags = _check_together(roots, records)
    with locked_cache(out) as cache:
        for root, record in zip(roots, records, strict=True):
            reuse(root, record.bags, cache)
        _check_complete(bags, cache)
        write_json(cache / "config.json", records[0].config)
        config = load(Config, cache / "config.json")
        with new_folder(out, manifest=False) as root:
            assembly = Assembly(root, cache, config)
            for bag in bags:
                assembly.add(bag)
            summary = summarize(assembly, 0)
            require_episodes(summary)
            assembly.finish(records[0].settings, workers)  # with the versions that made the rows, whoever merges them
    return summary


def _read_shard(root: Path) -> ConversionRecord:
    record = read_record(root)
    if record is None:
        raise UserError(f"{root} holds no {RECORD_PATH} of this version of the converter. {OTHER_TOOL}")
    return record


def _check_together(roots: Sequence[Path], records: Sequence[ConversionRecord]) -> list[BagEntry]:
    """Return the bags of all shards in the order of their names; raises UserError when it is not one conversion."""
    first, shard_of = records[0].settings, dict[str, Path]()
    for root, record in zip(roots, records, strict=True):
        settings = record.settings
        for name in type(settings).model_fields:
            if getattr(settings, name) != getattr(first, name):
                raise UserError(f"{root} and {roots[0]} were converted with another `{name}`. {OTHER_TOOL}")
        for bag in record.bags:
            if bag.bag in shard_of:
                raise UserError(f"{root} and {shard_of[bag.bag]} both hold bag {bag.bag}. {OTHER_TOOL}")
            shard_of[bag.bag] = root
    return sorted((bag for record in records for bag in record.bags), key=lambda bag: bag.bag)


def _check_complete(bags: Sequence[BagEntry], cache: Path) -> None:
    for bag in bags:
        if bag.is_converted and not (bag.key and (cache / bag.key).is_dir()):
            raise UserError(f"bag {bag.bag}: its rows are not as its record says; convert its shard again")
        if not bag.is_converted and (bag.reason or "").endswith(SIZE_REMEDY):
            # Its shard compared it with that shard's first bag; the whole conversion might have accepted it.
            raise UserError(f"bag {bag.bag} was refused in its shard: {bag.reason}, and convert again")
