"""The command that converts ROS bags into a dataset: `python -m stage1_convert --src BAGS --out DATASET`."""

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common.cli.command import Parser, UserError, add_config_flags, run
from common.cli.config import load
from common.lerobot.keys import parse_renames
from common.report.formatting import counted
from common.report.rrd import require_rerun
from stage1_convert.bags.message_files import read_message_files
from stage1_convert.check import check, print_report
from stage1_convert.config import Config
from stage1_convert.inspect.dry_run import dry_run
from stage1_convert.inspect.print import inspect
from stage1_convert.pipeline.convert import Options, RefusedError, Summary, convert, select
from stage1_convert.pipeline.merge import merge
from stage1_convert.report.rrd import write_recording
from stage1_convert.sources import open_source


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; a conversion returns 0 also when some bags were refused without --strict."""
    args = _parser().parse_args(argv)
    if args.check:
        return print_report(check(args.check, parse_renames(args.rename), args.use_cameras))
    config = load(Config, args.config, args.override)
    read_message_files(tuple(config.data.msg_paths))  # a wrong path is no fault of the bags'
    if args.inspect:
        return inspect(args.inspect, args.out, config.data, args.join)
    if args.dry_run:
        return _dry_run(args, config)
    if args.rerun:
        require_rerun()
    start = time.monotonic()
    summary = _merge(args) if args.merge else _convert(args, config)
    _print_summary(summary, args.out, time.monotonic() - start)
    if args.rerun and summary.episodes:
        write_recording(args.rerun, args.out, args.rerun_episode)
    return 0


def _dry_run(args: argparse.Namespace, config: Config) -> int:
    _require(args, "src")
    source = open_source(args.src, args.keep_downloads == "true", args.join)
    return dry_run(source, select(source.bags, config.data, _shard(args.shard)), config, args.out)


def _merge(args: argparse.Namespace) -> Summary:
    _require(args, "merge", "out")
    if args.src:
        raise UserError("command line: --merge takes shards and no --src")
    return merge(args.merge, args.out, args.workers)


def _convert(args: argparse.Namespace, config: Config) -> Summary:
    _require(args, "src", "out")
    options = Options(args.workers, args.strict, _shard(args.shard), args.trust_images)
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: expected at least 1")
    try:
        return convert(open_source(args.src, args.keep_downloads == "true", args.join), args.out, config, options)
    except RefusedError as error:
        _print_notes("refused", error.refused)
        raise


def _parser() -> Parser:
    parser = Parser(prog="python -m stage1_convert", description=__doc__)
    parser.add_argument(
        "--src", help="folder with the bags, at any depth; or one bag; or azure://ACCOUNT/CONTAINER/PREFIX"
    )
    parser.add_argument("--out", type=Path, help="the dataset; one made by this command is brought up to date")
    add_config_flags(parser, "data and conventions")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=cores, help="processes (default: all cores that may be used)")
    parser.add_argument("--strict", action="store_true", help="one refused bag refuses the whole dataset")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="every N-th bag only, from the I-th on")
    parser.add_argument(
        "--trust-images",
        action="store_true",
        help="check only the header and the end of JPEGs; only a sample of all is decoded, for the statistics",
    )
    parser.add_argument(
        "--keep-downloads", choices=["true", "false"], default="true", help="false: delete each download once converted"
    )
    parser.add_argument(
        "--join",
        action="store_true",
        help="make one bag of those that were recorded at the same time, such as the arm in one and a camera in another",
    )
    parser.add_argument("--rerun", type=Path, metavar="FILE.rrd", help="write an episode for the viewer of Rerun")
    parser.add_argument("--rerun-episode", type=int, default=0, metavar="N", help="which one (0)")
    _add_modes(parser)
    return parser


def _add_modes(parser: Parser) -> None:
    """Add what the command can do instead of a conversion, and the flags of --check."""
    parser.add_argument(
        "--rename",
        nargs="*",
        default=[],
        metavar="OLD=NEW",
        help="with --check: LeRobot's names of another tool's features, as data.rename of a training",
    )
    parser.add_argument(
        "--use-cameras",
        nargs="*",
        metavar="CAMERA",
        help="with --check: these alone, as data.use_cameras of a training",
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--inspect", type=Path, metavar="BAG", help="print what a bag, or each bag in a folder, holds")
    modes.add_argument("--check", type=Path, metavar="DATASET", help="look for faults in any LeRobot v3.0 dataset")
    modes.add_argument("--dry-run", action="store_true", help="print what would be converted, and how large it gets")
    modes.add_argument(
        "--merge", type=Path, nargs="+", metavar="SHARD", help="join the shards of one conversion into --out"
    )


def _require(args: argparse.Namespace, *names: str) -> None:
    missing = [f"--{name}" for name in names if not getattr(args, name)]
    if missing:
        raise UserError(f"command line: {' and '.join(missing)} missing; see python -m stage1_convert --help")


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise UserError(f"--shard {text}: expected I/N with I from 1 to N, such as 1/4")
    return part, parts


def _print_summary(summary: Summary, out: Path, seconds: float) -> None:
    bags = f"{summary.bags - len(summary.refused)} converted, {len(summary.refused)} refused"
    reused = f"; {summary.reused} unchanged since they were converted before" if summary.reused else ""
    images = summary.images
    rows = {
        "bags": bags + reused,
        "episodes": f"{summary.episodes}",
        "frames": f"{summary.frames}",
        "images": f"{images.repeated} repeated, {images.passed_over} passed over; the cameras lost {images.lost}, and "
        f"their rates make {images.unavoidable} unavoidable",
        "speed": f"{summary.frames / seconds:.0f} frames/s, {seconds:.1f} s",
        "bad": f"{counted(summary.bad_messages, 'message')} left out" if summary.bad_messages else "",
        "warnings": f"{len(summary.warnings)}",
        "hint": summary.hint,
        "dataset": f"{out}" if summary.episodes else f"none; {out} holds this shard's record for --merge",
    }
    for name, value in rows.items():
        if value:
            print(f"{name:<10}{value}")
    _print_notes("warning", summary.warnings)
    _print_notes("refused", summary.refused)


def _print_notes(kind: str, notes: Sequence[tuple[str, str]]) -> None:
    for bag, text in notes:
        print(f"{kind}: bag {bag}: {text}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
