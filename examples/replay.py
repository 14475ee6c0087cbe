"""Replays a bag as a robot would send it, and compares what a policy would see with what the dataset holds.

python -m examples.replay DATASET BAG [--name NAME] [--delay-ms 0 20 50]

For each delay it prints how many ticks were refused, and of each stream how many picks differ from the dataset's. The
delay after which none differs is the one for the robot.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow.dataset as arrow

from common.cli.command import Parser, UserError, run
from common.report.formatting import counted
from stage1_convert.align.resample import grid
from stage1_convert.bags.bag import Bag
from stage1_convert.config import Config
from stage1_convert.dataset.record import BagEntry, ConversionRecord, read_record
from stage1_convert.live.observe import LiveStreams, Observation, Refusal
from stage1_convert.live.rules import LiveRules
from stage1_convert.pipeline.plan_bag import open_by_settings
from stage1_convert.sources.source import BagPath
from stage1_convert.streams.arrays import Int64
from stage1_convert.streams.clock import SECOND_NS


class Recorded(NamedTuple):
    """A bag of a dataset: how it was aligned, the ticks of its grid, and the message of each stream at those of its frames."""

    rules: LiveRules
    ticks_ns: Int64
    messages: dict[int, dict[str, int]]


def read_recorded(dataset: Path, name: str | None) -> Recorded:
    """Read what a dataset says of a bag, by default its first; raises UserError when it is not one of ours."""
    record = read_record(dataset)
    if record is None:
        raise UserError(f"{dataset} holds no meta/conversion.json of this version: convert the bags again")
    name = name or next(entry.bag for entry in record.bags if entry.is_converted)
    rules = LiveRules.of(record, name)
    entry = next(entry for entry in record.bags if entry.bag == name)
    return Recorded(rules, _grid_ticks(entry, rules.config), dict(_frames(dataset, record, entry)))


def replay(bag: Bag, live: LiveStreams, ticks_ns: Int64, delay_ns: int) -> Iterator[Observation | Refusal]:
    """Feed the messages of a bag by their receive times, and answer each tick when its delay has passed."""
    waiting = iter(ticks_ns.tolist())
    tick_ns = next(waiting, None)
    for topic, receive_ns, data in bag.records(sorted(live.topics)):
        while tick_ns is not None and receive_ns > tick_ns + delay_ns:
            yield live.observe(tick_ns)
            tick_ns = next(waiting, None)
        live.add(topic, receive_ns, data)
    while tick_ns is not None:
        yield live.observe(tick_ns)
        tick_ns = next(waiting, None)


def answers(path: Path, recorded: Recorded, delay_ms: float) -> list[Observation | Refusal]:
    """Return what a robot that says what a bag holds would have shown at each tick."""
    data = recorded.rules.config.data
    with tempfile.TemporaryDirectory() as scratch, open_by_settings(BagPath("", path), Path(scratch), data) as bag:
        return list(replay(bag, LiveStreams(recorded.rules, bag), recorded.ticks_ns, round(delay_ms * 1e6)))


def differences(recorded: Recorded, found: Sequence[Observation | Refusal]) -> tuple[int, Counter[str]]:
    """Return how many of the dataset's frames were refused, and how many picks of each stream differ in the others."""
    refused, differing = 0, Counter(dict.fromkeys(recorded.rules.resample, 0))
    for answer in found:
        expected = recorded.messages.get(answer.tick_ns)
        if expected and isinstance(answer, Refusal):
            refused += 1
        elif expected and isinstance(answer, Observation):
            differing.update(stream for stream, number in answer.messages.items() if expected[stream] != number)
    return refused, differing


def _grid_ticks(entry: BagEntry, config: Config) -> Int64:
    """Return all ticks of a bag's grid: those of episodes, gaps, and what was left out."""
    fps = config.data.fps
    spans = [(episode.start_ns, episode.frames) for episode in entry.episodes]
    spans += [(span.start_ns, span.frames) for span in entry.gaps] + [
        (span.start_ns, span.frames) for span in entry.left_out
    ]
    start_ns = min(start for start, _ in spans)
    return grid(start_ns, max(start + (frames - 1) * SECOND_NS // fps + 1 for start, frames in spans), fps)


def _frames(dataset: Path, record: ConversionRecord, entry: BagEntry) -> Iterator[tuple[int, dict[str, int]]]:
    """Yield the tick of each frame of a bag, and its messages by stream."""
    before = sum(len(other.episodes) for other in record.bags[: record.bags.index(entry)])
    files = sorted((dataset / "meta/sync").glob("*/*.parquet"))[before : before + len(entry.episodes)]
    for row in arrow.dataset(files).to_table().to_pylist():
        ending = ".message"
        yield row["tick_ns"], {key.removesuffix(ending): row[key] for key in row if key.endswith(ending)}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; see the docstring of the module."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--name", help="name of the bag in the dataset; default: its first one")
    parser.add_argument("--delay-ms", type=float, nargs="+", default=[0.0, 20.0, 50.0, 100.0])
    arguments = parser.parse_args(argv)
    recorded = read_recorded(arguments.dataset, arguments.name)
    print(f"{len(recorded.messages)} frames; picks that differ from the dataset's, by delay:")
    is_answered = False
    for delay_ms in arguments.delay_ms:
        refused, differing = differences(recorded, answers(arguments.bag, recorded, delay_ms))
        picks = ", ".join(f"{stream} {count}" for stream, count in sorted(differing.items()))
        print(f"{delay_ms:7g} ms  {picks}; {counted(refused, 'frame')} refused")
        is_answered |= refused < len(recorded.messages)
    if not is_answered:
        raise UserError(f"{arguments.bag}: no frame was answered; give the bag of that name, or its name by --name")
    return 0


if __name__ == "__main__":
    run(main)
