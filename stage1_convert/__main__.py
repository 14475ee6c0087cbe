"""Flags in, a dataset out: `python -m stage1_convert --src FOLDER --out DATASET`."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common.command import Parser, UserError, add_config_flags, run
from common.config import load
from stage1_convert.config import Config
from stage1_convert.convert import Options, RefusedError, convert


def main(argv: Sequence[str] | None = None) -> int:
    """Convert and print a summary; returns 0, also when some bags were refused and --strict is not given."""
    parser = Parser(prog="python -m stage1_convert", description=__doc__)
    parser.add_argument("--src", type=Path, required=True, help="folder with the bags, at any depth")
    parser.add_argument("--out", type=Path, required=True, help="the dataset; one made by this command is replaced")
    add_config_flags(parser, "data and conventions")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--strict", action="store_true", help="one refused bag refuses the whole dataset")
    args = parser.parse_args(argv)
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
