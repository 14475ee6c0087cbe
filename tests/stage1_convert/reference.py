"""A second, independent reader of bags and a second aligner: the mcap package or sqlite3, struct, and plain loops."""

import cmath
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mcap.reader import make_reader


class Sample(NamedTuple):
    """One message: its header stamp and its content."""

    stamp_ns: int
    value: Any


class Cdr:
    """Reads little-endian CDR fields one after the other; alignment counts after the four header bytes."""

    def __init__(self, data: bytes) -> None:
        assert data[:4] == b"\0\1\0\0"
        self.data, self.offset = data[4:], 0

    def number(self, code: str) -> Any:
        size = struct.calcsize(code)
        self.offset += -self.offset % size
        (value,) = struct.unpack_from("<" + code, self.data, self.offset)
        self.offset += size
        return value

    def block(self, size: int) -> bytes:
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def text(self) -> str:
        return self.block(self.number("I"))[:-1].decode()

    def stamp_ns(self) -> int:
        stamp_ns = int(self.number("i") * 10**9 + self.number("I"))
        self.text()
        return stamp_ns


def raw_messages(bag: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (topic, CDR) in the order of the receive times."""
    for path in bag.glob("*.mcap"):
        with path.open("rb") as file:
            for _, channel, message in make_reader(file).iter_messages():
                yield channel.topic, message.data
    for path in bag.glob("*.db3"):
        query = "SELECT name, data FROM messages JOIN topics ON topic_id = topics.id ORDER BY timestamp"
        yield from sqlite3.connect(path).execute(query)


def _stamped(bag: Path, topic: str) -> Iterator[tuple[int, Cdr]]:
    """Yield the header stamp of each message of a topic, and what follows the header."""
    for name, data in raw_messages(bag):
        if name == topic:
            cdr = Cdr(data)
            yield cdr.stamp_ns(), cdr


def joint_samples(bag: Path, topic: str, joints: list[str]) -> list[Sample]:
    """Return every joint message as a list of angles in the order of `joints`."""
    samples = []
    for stamp_ns, cdr in _stamped(bag, topic):
        names = [cdr.text() for _ in range(cdr.number("I"))]
        positions = [cdr.number("d") for _ in range(cdr.number("I"))]
        angle_of = dict(zip(names, positions, strict=True))
        samples.append(Sample(stamp_ns, [angle_of[joint] for joint in joints]))
    return samples


def compressed_samples(bag: Path, topic: str) -> list[Sample]:
    """Return every CompressedImage's bytes."""
    samples = []
    for stamp_ns, cdr in _stamped(bag, topic):
        cdr.text()
        samples.append(Sample(stamp_ns, cdr.block(cdr.number("I"))))
    return samples


def newest(samples: list[Sample], tick_ns: int) -> Sample | None:
    """Return the last sample that is not after the tick."""
    found = None
    for sample in samples:
        if sample.stamp_ns <= tick_ns:
            found = sample
    return found


def closest(samples: list[Sample], tick_ns: int) -> Sample:
    """Return the sample that is closest to the tick, the earlier of two."""
    return min(samples, key=lambda sample: (abs(sample.stamp_ns - tick_ns), sample.stamp_ns))


def next_unseen(samples: list[Sample], tick_ns: int, seen: list[Sample], fps: int) -> Sample | None:
    """Return the next sample that is not after the tick and not `seen` yet, else the last one seen.

    One that is older than one and a half periods counts only where no newer one has come.
    """
    if not seen:
        return newest(samples, tick_ns)
    unseen = [s for s in samples if s.stamp_ns <= tick_ns and s.stamp_ns > seen[-1].stamp_ns]
    fresh = [s for s in unseen if tick_ns - s.stamp_ns <= 1.5 * 10**9 / fps]
    return (fresh[:1] or unseen[-1:] or seen[-1:])[0]


def mid_window(samples: list[Sample], start_ns: int, fps: int) -> int:
    """Return the first tick, not before `start_ns`, at which the samples are half a period of the grid old on average."""
    period_ns = 10**9 / fps
    circle = sum(cmath.exp(2j * cmath.pi * (sample.stamp_ns - start_ns) / period_ns) for sample in samples)
    delay_ns = (cmath.phase(circle) / (2 * cmath.pi) + 0.5) % 1 * period_ns
    return start_ns + round(delay_ns / 1000) * 1000


def show(
    streams: dict[str, list[Sample]], fps: int = 30, in_order: Sequence[str] = ("color",), rule: str = "hold"
) -> list[tuple[int, dict[str, Sample]]]:
    """Return every tick in the time in which all streams publish, with the sample that each stream shows.

    The streams `in_order` show every sample once, and the first of them lies mid-window; the others follow the rule, hold
    or nearest.
    """
    start_ns = max(samples[0].stamp_ns for samples in streams.values())
    stop_ns = min(samples[-1].stamp_ns for samples in streams.values())
    if in_order:
        start_ns = mid_window(streams[in_order[0]], start_ns, fps)
    seen: dict[str, list[Sample]] = {name: [] for name in in_order}
    frames: list[tuple[int, dict[str, Sample]]] = []
    while (tick_ns := start_ns + len(frames) * 10**9 // fps) <= stop_ns:
        frame = {}
        for name, samples in streams.items():
            if name in seen:
                shown = next_unseen(samples, tick_ns, seen[name], fps)
                seen[name] += [shown] if shown else []
            else:
                shown = newest(samples, tick_ns) if rule == "hold" else closest(samples, tick_ns)
            assert shown is not None  # every stream has published
            frame[name] = shown
        frames.append((tick_ns, frame))
    return frames


def pair(
    streams: dict[str, list[Sample]],
    fps: int = 30,
    in_order: Sequence[str] = ("color",),
    rule: str = "hold",
    max_age_ms: float = 100,
    shortest: int = 15,
) -> list[list[dict[str, Any]]]:
    """Return the episodes as lists of frames, each a stream's value by its name: what a conversion must give.

    A frame that lacks a fresh sample (not further away than `max_age_ms`) ends an episode.
    """
    episodes: list[list[dict[str, Any]]] = [[]]
    for tick_ns, frame in show(streams, fps, in_order, rule):
        if all(abs(tick_ns - sample.stamp_ns) <= max_age_ms * 1e6 for sample in frame.values()):
            episodes[-1].append({name: sample.value for name, sample in frame.items()})
        elif episodes[-1]:
            episodes.append([])
    return [episode for episode in episodes if len(episode) >= shortest]
