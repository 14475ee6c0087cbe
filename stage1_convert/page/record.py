"""meta/conversion.json in; its totals, its streams and its episodes, worst first, out. Pure."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

NS = 1_000_000_000
STALE_SHARE = 0.5  # of a stream's limit: above it a sample is worth a look
UNLUCKY_SHARE, MISSING_SHARE = 0.1, 0.02  # of an episode's frames


class Told(NamedTuple):
    """An episode as the record tells of it, and the bag it comes from."""

    number: int
    frames: int
    start_ns: int
    facts: Mapping[str, Any]
    bag: Mapping[str, Any]

    def stop_ns(self, fps: float) -> int:
        """Return the moment at which the frame after the last would be."""
        return self.start_ns + round(self.frames * NS / fps)


class Mark(NamedTuple):
    """Something to know about an episode; `level` is warn or bad, `weight` how bad it is."""

    level: str
    text: str
    weight: float


def episodes_of(record: Mapping[str, Any]) -> list[Told]:
    """Return all episodes in the order of the dataset."""
    told = [
        Told(episode["episode_index"], episode["frames"], episode["start_ns"], episode, bag)
        for bag in record["bags"]
        for episode in bag["episodes"]
    ]
    return sorted(told, key=lambda one: one.number)


def marks_of(told: Told, record: Mapping[str, Any], fps: float) -> list[Mark]:
    """Return what there is to say against an episode."""
    facts, marks = told.facts, []
    for camera in record["cameras"]:
        held, dropped = (facts.get(name, {}).get(camera, 0) for name in ("held", "dropped"))
        unlucky, missing = min(held, dropped), max(held - dropped, 0)
        if unlucky / told.frames > UNLUCKY_SHARE:
            text = f"{camera}: {unlucky} frames repeat a picture while as many pictures are in no frame (jitter)"
            marks.append(Mark("warn", text, unlucky / told.frames))
        if missing / told.frames > MISSING_SHARE:
            text = f"{camera}: {missing} of {told.frames} frames have no new picture: none was recorded"
            marks.append(Mark("warn", text, 2 * missing / told.frames))
        repeated = facts.get("repeated", {}).get(camera, 0)
        if repeated:
            marks.append(Mark("warn", f"{camera}: {repeated} pictures equal the one before", repeated / told.frames))
    for stream, age in facts.get("age_ms", {}).items():
        limit_ms = record["streams"].get(stream, {}).get("limit_ms", 0)
        if limit_ms and age["max"] > STALE_SHARE * limit_ms:
            text = f"{stream}: oldest sample {age['max']:.0f} ms, limit {limit_ms:.0f} ms"
            marks.append(Mark("warn", text, age["max"] / limit_ms / 2))
    for gap in gaps_at(told, fps):
        text = f"gap of {gap['frames'] / fps:.2f} s beside it: nothing from {', '.join(gap['streams'])}"
        marks.append(Mark("bad", text, 1.0))
    marks += [Mark("warn", f"bag: {warning}", 0.5) for warning in told.bag["warnings"]]
    return sorted(marks, key=lambda mark: -mark.weight)


def gaps_at(told: Told, fps: float) -> list[Mapping[str, Any]]:
    """Return the bag's gaps that end or begin where the episode begins or ends."""
    tick_ns = NS / fps
    return [
        gap
        for gap in told.bag.get("gaps", [])
        if abs(gap["start_ns"] + gap["frames"] * tick_ns - told.start_ns) < tick_ns / 2
        or abs(gap["start_ns"] - told.stop_ns(fps)) < tick_ns / 2
    ]


def worst_first(told: list[Told], record: Mapping[str, Any], fps: float) -> list[tuple[Told, list[Mark]]]:
    """Return the episodes by the weight of what there is to say against them."""
    marked = [(one, marks_of(one, record, fps)) for one in told]
    return sorted(marked, key=lambda pair: (-sum(mark.weight for mark in pair[1]), pair[0].number))


class StreamFacts(NamedTuple):
    """A stream over all bags: the rule, the clocks taken and why, and how old its samples are in the frames, in ms."""

    name: str
    rule: str
    limit_ms: float
    clocks: str
    reasons: list[str]
    latency_ms: tuple[float, float] | None
    mean_ms: float
    p95_ms: float
    max_ms: float


def streams_of(record: Mapping[str, Any], told: list[Told]) -> list[StreamFacts]:
    """Return what happened to every stream; p95 is the worst episode's."""
    found = []
    for name, rule in record["streams"].items():
        clocks = [bag["clock"][name] for bag in record["bags"] if name in bag.get("clock", {})]
        counts = Counter(clock["source"] for clock in clocks)
        reasons = Counter(clock["reason"] for clock in clocks if clock["source"] == "receive")
        latencies = [clock["latency_ms"] for clock in clocks if clock["latency_ms"] is not None]
        ages = [(one.facts["age_ms"][name], one.frames) for one in told if name in one.facts.get("age_ms", {})]
        frames = sum(n for _, n in ages) or 1
        found.append(
            StreamFacts(
                name,
                rule["resample"],
                rule["limit_ms"],
                ", ".join(
                    f"{source} time in {count} bag{'s' * (count > 1)}" for source, count in sorted(counts.items())
                ),
                [f"{reason} ({count} bag{'s' * (count > 1)})" for reason, count in sorted(reasons.items())],
                (min(latencies), max(latencies)) if latencies else None,
                sum(age["mean"] * n for age, n in ages) / frames,
                max((age["p95"] for age, _ in ages), default=0.0),
                max((age["max"] for age, _ in ages), default=0.0),
            )
        )
    return found
