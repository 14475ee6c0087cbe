"""Flags in, a dataset out: `python -m stage1_convert --src FOLDER --out DATASET`."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common.command import Parser, UserError, add_config_flags, run
from common.config import load
from stage1_convert.check import check, print_report
from stage1_convert.config import Config
from stage1_convert.convert import Options, RefusedError, convert, select
from stage1_convert.dryrun import dry_run
from stage1_convert.inspect import inspect
from stage1_convert.source import find_bags


def main(argv: Sequence[str] | None = None) -> int:
    """Convert and print a summary; returns 0, also when some bags were refused and --strict is not given."""
    parser = Parser(prog="python -m stage1_convert", description=__doc__)
    parser.add_argument("--src", type=Path, help="folder with the bags, at any depth")
    parser.add_argument("--out", type=Path, help="the dataset; one made by this command is replaced")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--inspect", type=Path, metavar="BAG", help="tell what a bag, or each bag in a folder, holds")
    modes.add_argument("--check", type=Path, metavar="DATASET", help="look for faults in any LeRobot v3.0 dataset")
    add_config_flags(parser, "data and conventions")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--strict", action="store_true", help="one refused bag refuses the whole dataset")
    modes.add_argument("--dry-run", action="store_true", help="tell what would be converted, and how large it gets")
    args = parser.parse_args(argv)
    if args.check:
        return print_report(check(args.check))
    if args.inspect:
        return inspect(args.inspect, args.out, load(Config, args.config, args.override).data.ros_distro)
    if args.dry_run and args.src:
        config = load(Config, args.config, args.override)
        return dry_run(select(find_bags(args.src), config.data), config, args.out)
    if not (args.src and args.out):
        parser.error("--src and --out are needed")
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: expected at least 1")
    config = load(Config, args.config, args.override)
    start = time.monotonic()
    try:
        summary = convert(args.src, args.out, config, Options(args.workers, args.strict))
    except RefusedError as error:
        _print_notes("refused", error.refused)
        raise
    seconds = time.monotonic() - start
    print(f"bags      {summary.bags - len(summary.refused)} converted, {len(summary.refused)} refused")
    print(f"episodes  {summary.episodes}")
    print(f"frames    {summary.frames}")
    print(f"speed     {summary.frames / seconds:.0f} frames/s, {seconds:.1f} s")
    print(f"dataset   {args.out}")
    _print_notes("warning", summary.warnings)
    _print_notes("refused", summary.refused)
    return 0


def _print_notes(kind: str, notes: Sequence[tuple[str, str]]) -> None:
    for bag, text in notes:
        print(f"{kind}: bag {bag}: {text}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
