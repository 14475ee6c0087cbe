"""meta/conversion.json in; its parts, its streams and its episodes, worst first, out. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NS = 1_000_000_000
STALE_SHARE = 0.5  # of a stream's limit: above it a sample is worth a look
UNLUCKY_SHARE, MISSING_SHARE = 0.1, 0.02  # of an episode's frames


class Part(NamedTuple):
    """Episodes `start` to `stop` (half open), and what the record of their conversion tells of all its bags alike: empty
    where there is no record.
    """

    start: int
    stop: int
    head: Mapping[str, Any]


class EpisodeRecord(NamedTuple):
    """An episode as the record tells of it, the bag it comes from, and its part's head; these are empty where there is
    no record.
    """

    number: int
    frames: int
    task: str
    facts: Mapping[str, Any]
    bag: Mapping[str, Any]
    head: Mapping[str, Any]

    @property
    def start_ns(self) -> int:
        """The first tick."""
        return int(self.facts["start_ns"])

    def place(self) -> tuple[int, int]:
        """Return the episode's number within its bag, by which data.episodes names it, and how many there are."""
        others = [span["start_ns"] for span in self.bag["left_out"] if span["reason"] == "not_chosen"]
        starts_ns = sorted([*others, *(episode["start_ns"] for episode in self.bag["episodes"])])
        return starts_ns.index(self.facts["start_ns"]), len(starts_ns)

    def stop_ns(self, fps: float) -> int:
        """Return the moment at which the frame after the last would be."""
        return self.start_ns + round(self.frames * NS / fps)


class Issue(NamedTuple):
    """Something to know about an episode; `level` is warn or bad, `weight` how bad it is."""

    level: str
    text: str
    weight: float


def parts_of(record: Mapping[str, Any], start: int, stop: int) -> list[Part]:
    """Return what these episodes were joined from, the parts of parts in their places; one part if at once."""
    if "merged" not in record:
        return [Part(start, stop, record)]
    inner = [(one["conversion"] or {}, *(start + number for number in one["episodes"])) for one in record["merged"]]
    return [part for one in inner for part in parts_of(*one)]


def episodes_of(record: Mapping[str, Any], episodes: Sequence[tuple[int, str]]) -> list[EpisodeRecord]:
    """Return all episodes in the order of the dataset; `episodes` are their frames and tasks."""
    known = {facts["episode_index"]: (facts, bag) for bag in record["bags"] for facts in bag["episodes"]}
    return [
        EpisodeRecord(number, *episodes[number], *known.get(number, ({}, {})), part.head)
        for part in parts_of(record, 0, len(episodes))
        for number in range(part.start, part.stop)
    ]


def marks_of(told: EpisodeRecord, fps: float) -> list[Issue]:
    """Return what there is to say against an episode: nothing where nothing is known."""
    if not told.bag:
        return []
    facts, marks = told.facts, []
    for camera in told.head["cameras"]:
        unlucky, missing = _held(told, camera)
        if unlucky / told.frames > UNLUCKY_SHARE:
            text = f"{camera}: {unlucky} frames repeat an image while as many images are in no frame (jitter)"
            marks.append(Issue("warn", text, unlucky / told.frames))
        if missing / told.frames > MISSING_SHARE:
            text = f"{camera}: {missing} of {told.frames} frames have no new image: none was recorded"
            marks.append(Issue("warn", text, 2 * missing / told.frames))
        repeated = facts.get("repeated", {}).get(camera, 0)
        if repeated:
            marks.append(Issue("warn", f"{camera}: {repeated} images equal the one before", repeated / told.frames))
    for stream, age in facts.get("age_ms", {}).items():
        limit_ms = told.head["streams"].get(stream, {}).get("limit_ms", 0)
        if limit_ms and age["max"] > STALE_SHARE * limit_ms:
            text = f"{stream}: oldest sample {age['max']:.0f} ms, limit {limit_ms:.0f} ms"
            marks.append(Issue("warn", text, age["max"] / limit_ms / 2))
    for gap in gaps_at(told, fps):
        text = f"gap of {gap['frames'] / fps:.2f} s beside it: nothing from {', '.join(gap['streams'])}"
        marks.append(Issue("bad", text, 1.0))
    marks += [Issue("warn", f"bag: {warning}", 0.5) for warning in told.bag["warnings"]]
    return sorted(marks, key=lambda mark: -mark.weight)


def on_the_edge(told: EpisodeRecord) -> bool:
    """Tell whether jitter costs an episode images because the grid lies where they arrive, and was not moved away."""
    if not told.bag or told.head["config"]["data"]["grid_delay_ms"]:
        return False
    return any(_held(told, camera)[0] / told.frames > UNLUCKY_SHARE for camera in told.head["cameras"])


def _held(told: EpisodeRecord, camera: str) -> tuple[int, int]:
    """Return how many frames repeat an image while another one is in none, and how many had none to show."""
    held, dropped = (told.facts.get(name, {}).get(camera, 0) for name in ("held", "dropped"))
    return min(held, dropped), max(held - dropped, 0)


def gaps_at(told: EpisodeRecord, fps: float) -> list[Mapping[str, Any]]:
    """Return the bag's gaps that end or begin where the episode begins or ends."""
    tick_ns = NS / fps
    return [
        gap
        for gap in told.bag.get("gaps", [])
        if abs(gap["start_ns"] + gap["frames"] * tick_ns - told.start_ns) < tick_ns / 2
        or abs(gap["start_ns"] - told.stop_ns(fps)) < tick_ns / 2
    ]


def worst_first(told: Sequence[EpisodeRecord], fps: float) -> list[tuple[EpisodeRecord, list[Issue]]]:
    """Return the episodes by the weight of what there is to say against them; those of which nothing is known come before
    those that are known to be good.
    """
    marked = [(one, marks_of(one, fps)) for one in told]
    return sorted(marked, key=lambda pair: (-sum(mark.weight for mark in pair[1]), bool(pair[0].bag), pair[0].number))


class StreamFacts(NamedTuple):
    """A stream over all bags of a part: the rule, the clocks taken and why, and its samples' age in the frames, in ms."""

    name: str
    rule: str
    limit_ms: float
    clocks: str
    reasons: list[str]
    latency_ms: tuple[float, float] | None
    mean_ms: float
    p95_ms: float
    max_ms: float


def streams_of(head: Mapping[str, Any], told: Sequence[EpisodeRecord]) -> list[StreamFacts]:
    """Return what happened to every stream of a part with these episodes; p95 is the worst episode's."""
    found = []
    bags = {one.bag["bag"]: one.bag for one in told}.values()
    for name, rule in head["streams"].items():
        clocks = [bag["clock"][name] for bag in bags if name in bag.get("clock", {})]
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
