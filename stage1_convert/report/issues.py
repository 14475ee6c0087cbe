"""What the record of a conversion says about episodes and streams: issues, ranks and ages. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from common.report.formatting import counted
from stage1_convert.dataset.record import BagEntry, ConversionRecord, EpisodeEntry, Gap

NS = 1_000_000_000
TOLERATED_SHARE = 0.02  # of an episode's frames may lack a new image
TOLERATED_IMAGES = 2  # so few images say nothing
FROZEN_SHARE = 0.5  # of an episode's frames: up to here, identical images may be those of an arm at rest
WHY_LEFT_OUT = {
    "shorter_piece": "a shorter piece beside a gap (data.on_gap=drop)",
    "pause": "a pause between two episodes (data.split_pause_s)",
    "idle": "the arm rests at an end (data.trim_idle_s)",
    "min_episode_s": "too short for an episode (data.min_episode_s)",
    "not_chosen": "an episode that is not chosen (data.episodes)",
}


class Issue(NamedTuple):
    """Something to know about an episode, and how much it weighs in the ranking."""

    level: Literal["warn", "bad"]
    text: str
    weight: float


class EpisodeReport(NamedTuple):
    """An episode, the bag it comes from, its issues, the heaviest first, and counts of images over all cameras."""

    entry: EpisodeEntry
    bag: BagEntry
    issues: list[Issue]
    repeated: int
    passed_over: int
    identical: int

    @property
    def number(self) -> int:
        """The episode's index in the dataset."""
        return self.entry.episode_index

    @property
    def weight(self) -> float:
        """The sum by which episodes are ranked."""
        return sum(issue.weight for issue in self.issues)

    def number_in_bag(self) -> tuple[int, int]:
        """Return the episode's number within its bag, as data.episodes counts, and how many episodes the bag has."""
        skipped_ns = [span.start_ns for span in self.bag.left_out if span.reason == "not_chosen"]
        starts_ns = sorted([*skipped_ns, *(episode.start_ns for episode in self.bag.episodes)])
        return starts_ns.index(self.entry.start_ns), len(starts_ns)


class StreamReport(NamedTuple):
    """A stream over all bags: its rules, its clocks and why, the age of its samples in ms; `p95_ms` is the worst episode's."""

    name: str
    rules: list[str]
    clocks: list[str]
    reasons: list[str]
    latencies_ms: list[float]
    mean_ms: float
    p95_ms: float
    max_ms: float


class LeftOutReport(NamedTuple):
    """Frames of a bag that are in no episode for the same reason."""

    bag: str
    reason: str
    spans: int
    frames: int


def report_left_out(record: ConversionRecord) -> list[LeftOutReport]:
    """Return what is in no episode by bag and reason, most frames first."""
    found: dict[tuple[str, str], list[int]] = {}
    for bag in record.bags:
        for gap in bag.gaps:
            found.setdefault((bag.bag, f"a gap: nothing from {', '.join(gap.streams)}"), []).append(gap.frames)
        for span in bag.left_out:
            found.setdefault((bag.bag, WHY_LEFT_OUT.get(span.reason, span.reason)), []).append(span.frames)
    reports = [LeftOutReport(*key, len(frames), sum(frames)) for key, frames in found.items()]
    return sorted(reports, key=lambda report: -report.frames)


def report_episodes(record: ConversionRecord, fps: float) -> list[EpisodeReport]:
    """Return all episodes with their issues, in the order of the dataset."""
    reports = [_report_episode(record, bag, entry, fps) for bag in record.bags for entry in bag.episodes]
    return sorted(reports, key=lambda report: report.number)


def _report_episode(record: ConversionRecord, bag: BagEntry, entry: EpisodeEntry, fps: float) -> EpisodeReport:
    issues = sorted(_issues(record, bag, entry, fps), key=lambda issue: -issue.weight)
    repeated, passed_over, identical = (
        sum(counts.get(camera, 0) for camera in record.cameras)
        for counts in (entry.repeated, entry.passed_over, entry.identical)
    )
    return EpisodeReport(entry, bag, issues, repeated, passed_over, identical)


def worst_first(reports: Sequence[EpisodeReport]) -> list[EpisodeReport]:
    """Return the episodes ranked by the weight of their issues."""
    return sorted(reports, key=lambda report: (-report.weight, report.number))


def stop_ns(entry: EpisodeEntry | Gap, fps: float) -> int:
    """Return the time of the frame that would follow the last one."""
    return entry.start_ns + round(entry.frames * NS / fps)


def has_excess(record: ConversionRecord, entry: EpisodeEntry) -> bool:
    """Whether the frames repeat or pass over more images of a camera than it lost and its rate makes unavoidable."""
    return any(entry.excess.get(camera, 0) > _tolerated(entry) for camera in record.cameras)


def report_streams(record: ConversionRecord, reports: Sequence[EpisodeReport]) -> list[StreamReport]:
    """Return what happened to every stream of the conversion."""
    names = dict.fromkeys([*record.streams, *(name for bag in record.bags for name in bag.clock)])
    return [_stream(name, record, [report.entry for report in reports]) for name in names]


def _stream(name: str, record: ConversionRecord, entries: Sequence[EpisodeEntry]) -> StreamReport:
    clocks = [bag.clock[name] for bag in record.bags if bag.is_converted and name in bag.clock]
    sources = Counter(f"{clock.source} time" for clock in clocks)
    reasons = Counter(clock.reason for clock in clocks if clock.source == "receive")
    latencies = [clock.latency_ms for clock in clocks if clock.latency_ms is not None]
    ages = [(entry.age_ms[name], entry.frames) for entry in entries if name in entry.age_ms]
    frames = sum(count for _, count in ages) or 1
    return StreamReport(
        name,
        sorted({bag.resample.get(name, record.streams[name].resample) for bag in record.bags if bag.is_converted}),
        [f"{source}: {counted(count, 'bag')}" for source, count in sorted(sources.items())],
        [f"{reason} ({counted(count, 'bag')})" for reason, count in sorted(reasons.items())],
        sorted({round(min(latencies), 1), round(max(latencies), 1)}) if latencies else [],
        sum(age.mean * count for age, count in ages) / frames,
        max((age.p95 for age, _ in ages), default=0.0),
        max((age.max for age, _ in ages), default=0.0),
    )


def _issues(record: ConversionRecord, bag: BagEntry, entry: EpisodeEntry, fps: float) -> Iterator[Issue]:
    for camera in record.cameras:
        yield from _camera_issues(entry, camera)
    for gap in bag.gaps:
        if _touch(gap, entry, fps):
            text = f"gap of {gap.frames / fps:.2f} s next to it: nothing from {', '.join(gap.streams)}"
            yield Issue("bad", text, 1.0)
    for warning in bag.warnings:
        yield Issue("warn", f"bag: {warning}", 0.5)


def _camera_issues(entry: EpisodeEntry, camera: str) -> Iterator[Issue]:
    excess, identical = entry.excess.get(camera, 0), entry.identical.get(camera, 0)
    repeated, passed_over = entry.repeated.get(camera, 0), entry.passed_over.get(camera, 0)
    if excess > _tolerated(entry):
        text = (
            f"{camera}: {repeated} frames repeat an image and {passed_over} images are in no frame: {excess} more than the "
            "camera lost and its rate makes unavoidable"
        )
        yield Issue("warn", text, excess / entry.frames)
    missing = max(repeated - passed_over, 0)
    if missing > _tolerated(entry):
        text = f"{camera}: {missing} of {entry.frames} frames have no new image: none was recorded"
        yield Issue("warn", text, 2 * missing / entry.frames)
    if identical > FROZEN_SHARE * entry.frames:
        text = f"{camera}: {identical} of {entry.frames} images are identical to the one before: does the camera hang?"
        yield Issue("warn", text, identical / entry.frames)


def _tolerated(entry: EpisodeEntry) -> float:
    return max(TOLERATED_IMAGES, TOLERATED_SHARE * entry.frames)


def _touch(gap: Gap, entry: EpisodeEntry, fps: float) -> bool:
    """Whether the gap ends where the episode begins, or begins where it ends."""
    tolerance_ns = NS / fps / 2
    return (
        abs(stop_ns(gap, fps) - entry.start_ns) < tolerance_ns or abs(gap.start_ns - stop_ns(entry, fps)) < tolerance_ns
    )
