"""One bag in; its episodes' rows on disk, still without a place in the dataset, and a report of what was done, out.

The bag is read twice: first the tape, which decides what each frame shows, then the pictures, one at a time.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.command import UserError, one_line
from common.dataset import ACTION, IMAGES, STATE
from common.files import sha256
from stage1_convert import conventions, stats, sync
from stage1_convert.bag import Bag, open_bag
from stage1_convert.config import JOINTS, Config, DataConfig
from stage1_convert.decode import to_jpeg
from stage1_convert.source import Source, storage_files
from stage1_convert.tape import Tape, read_tape

BATCH_ROWS = 64
MAX_ANGLE_RAD = 1e4  # a thousand turns and more are a damaged number

Float64 = npt.NDArray[np.float64]
Histograms = dict[str, npt.NDArray[np.int64]]


class Piece(NamedTuple):
    """An episode on disk: its rows (Arrow file), the source of every frame (parquet), and its pictures' values."""

    rows: Path
    sources: Path
    histograms: Histograms
    report: dict[str, Any]


class Converted(NamedTuple):
    """What became of a bag: its entry in conversion.json, its episodes and its pictures' (height, width) by camera."""

    report: dict[str, Any]
    pieces: list[Piece]
    sizes: dict[str, tuple[int, int]]


class Plan(NamedTuple):
    """What every frame shows: the grid, the sample each stream gives to each tick, and the episodes' tick ranges."""

    ticks_ns: sync.Int64
    picks: dict[str, sync.Int64]
    pieces: list[tuple[int, int]]
    left_out: list[tuple[int, int]]
    gaps: list[dict[str, Any]]


class Shot(NamedTuple):
    """A stored picture and how often each value occurs in it (3, 256)."""

    jpeg: bytes
    histogram: npt.NDArray[np.int64]


def convert_bag(source: Source, folder: Path, config: Config) -> Converted:
    """Convert one bag into files in `folder`, which is made; what is wrong with the bag stands in the report."""
    folder.mkdir(parents=True)
    report: dict[str, Any] = {"bag": source.name, "status": "refused", "reason": None, "warnings": []}
    sizes: dict[str, tuple[int, int]] = {}
    try:
        report |= _fingerprint(source.path)
        with open_bag(source.path, folder, config.data.ros_distro) as bag:
            report["warnings"] = bag.warnings
            tape = read_tape(bag, config)
            report |= _describe(bag, tape)
            plan = _align(tape.clocks, config.data)
            _note_plan(report, tape, plan)
            _check_joints(tape, plan, config)
            shots = _shots(bag, tape, plan, config, sizes)
            pieces = [_write(folder, piece, tape, plan, shots, config) for piece in plan.pieces]
    except UserError as error:
        report["reason"] = one_line(error)
        return Converted(report, [], {})
    report["status"] = "converted"
    return Converted(report, pieces, sizes)


def _fingerprint(path: Path) -> dict[str, Any]:
    files = storage_files(path) if path.is_dir() else [path]
    try:
        sums = {file.name: sha256(file) for file in files}
    except OSError as error:
        raise UserError(f"cannot be read: {one_line(error)}") from error
    return {"storage": "mcap" if any(".mcap" in name for name in sums) else "sqlite3", "sha256": sums}


def _describe(bag: Bag, tape: Tape) -> dict[str, Any]:
    """Hold what was read against what the bag declares, and tell which clocks were taken."""
    messages = {}
    for stream, topic in tape.topics.items():
        declared, read = bag.topics[topic].declared, tape.read[stream]
        messages[topic] = {"declared": declared, "read": read, "used": 0}
        if read != declared:
            bag.warnings.append(f"topic {topic}: {declared} messages declared, {read} read")
    clocks = tape.clocks.items()
    return {
        "messages": messages,
        "clock": {s: {k: v for k, v in c._asdict().items() if k != "stamps_ns"} for s, c in clocks},
    }


def _align(clocks: dict[str, sync.Clock], data: DataConfig) -> Plan:
    """Lay the grid from the first moment at which every stream has spoken to the last at which every one still does."""
    start_ns = max(int(clock.stamps_ns[0]) for clock in clocks.values())
    ticks_ns = sync.grid(start_ns, min(int(clock.stamps_ns[-1]) for clock in clocks.values()), data.fps)
    index, good = {}, {}
    for stream, clock in clocks.items():
        rule = "nearest" if data.resample == "linear" and stream != JOINTS else data.resample
        limit_ns = round((data.max_age_ms if rule == "hold" else data.max_offset_ms) * 1e6)
        index[stream], good[stream] = sync.pick(clock.stamps_ns, ticks_ns, rule, limit_ns)
    whole = np.logical_and.reduce(list(good.values()))
    gaps: list[dict[str, Any]] = [
        {"start_ns": int(ticks_ns[a]), "frames": b - a, "streams": [s for s, ok in good.items() if not ok[a:b].all()]}
        for a, b in sync.runs(~whole)
    ]
    if gaps and data.on_gap == "fail":
        at_s, silent = (gaps[0]["start_ns"] - start_ns) / 1e9, ", ".join(gaps[0]["streams"])
        raise UserError(f"a gap of {gaps[0]['frames']} frames {at_s:.3f} s after the start: nothing from {silent}")
    pieces = sync.runs(whole)
    shortest = max(2, math.ceil(data.min_episode_s * data.fps - 1e-9))
    kept = [(a, b) for a, b in pieces if b - a >= shortest]
    if not kept:
        longest = max((b - a for a, b in pieces), default=0)
        raise UserError(
            f"too short: the longest stretch in which every stream speaks has {longest} frames at {data.fps} fps, "
            f"{shortest} are needed"
        )
    return Plan(ticks_ns, index, kept, [piece for piece in pieces if piece not in kept], gaps)


def _note_plan(report: dict[str, Any], tape: Tape, plan: Plan) -> None:
    first_ns = min(int(clock.stamps_ns[0]) for clock in tape.clocks.values())
    last_ns = max(int(clock.stamps_ns[-1]) for clock in tape.clocks.values())
    report["warm_up_s"] = round((int(plan.ticks_ns[0]) - first_ns) / 1e9, 6)
    report["tail_s"] = round((last_ns - int(plan.ticks_ns[-1])) / 1e9, 6)
    report["gaps"] = plan.gaps
    report["left_out"] = [{"start_ns": int(plan.ticks_ns[a]), "frames": b - a} for a, b in plan.left_out]
    for stream, topic in tape.topics.items():
        used = [plan.picks[stream][a:b] for a, b in plan.pieces]
        report["messages"][topic]["used"] = len(np.unique(np.concatenate(used)))


def _check_joints(tape: Tape, plan: Plan, config: Config) -> None:
    """Refuse joint messages that a frame needs and that do not give all its angles: no value is ever made up."""
    used = np.unique(np.concatenate([plan.picks[JOINTS][a:b] for a, b in plan.pieces]))
    if config.data.resample == "linear":
        used = np.unique(np.minimum(np.concatenate([used, used + 1]), len(tape.angles) - 1))
    sound = np.abs(tape.angles) <= MAX_ANGLE_RAD  # false for NaN, too
    bad = used[~sound[used].all(axis=1)]
    if len(bad):
        first = int(bad[0])
        values = zip(config.conventions.joint_order, tape.angles[first], sound[first], strict=True)
        fault = tape.faults.get(first) or ", ".join(
            f"{joint} is {value} rad" for joint, value, fine in values if not fine
        )
        raise UserError(f"topic {tape.topics[JOINTS]}, message {tape.numbers[first]}: {fault}")


def _shots(
    bag: Bag, tape: Tape, plan: Plan, config: Config, sizes: dict[str, tuple[int, int]]
) -> Iterator[dict[str, Shot]]:
    """Yield every frame's pictures, over all episodes in order, and fill in each camera's (height, width)."""
    camera_of = {topic: stream for stream, topic in tape.topics.items() if stream != JOINTS}
    ticks = np.concatenate([np.arange(a, b) for a, b in plan.pieces])
    uses = {c: np.bincount(plan.picks[c][ticks], minlength=len(tape.clocks[c].stamps_ns)) for c in camera_of.values()}
    waiting: dict[str, deque[Shot]] = {camera: deque() for camera in camera_of.values()}
    seen = dict.fromkeys(waiting, 0)
    wanted = tuple(config.conventions.image_resize or ())
    for message in bag.messages(camera_of):
        camera = camera_of[message.topic]
        number, seen[camera] = seen[camera], seen[camera] + 1
        if not uses[camera][number]:
            continue
        try:
            jpeg, picture = to_jpeg(message.content, wanted or None, config.conventions.jpeg_quality)  # type: ignore[arg-type]
            height, width, _ = picture.shape
            if sizes.setdefault(camera, (height, width)) != (height, width):
                first = "{}x{}".format(*sizes[camera])
                raise UserError(f"the picture is {height}x{width}, the ones before it {first}")
        except UserError as error:
            stamp_ns = tape.clocks[camera].stamps_ns[number]
            raise UserError(f"camera {camera}, message {number} stamped {stamp_ns} ns: {error}") from error
        waiting[camera].extend([Shot(jpeg, stats.histogram(picture))] * int(uses[camera][number]))
        while all(waiting.values()):
            yield {camera: queue.popleft() for camera, queue in waiting.items()}


def _write(
    folder: Path, piece: tuple[int, int], tape: Tape, plan: Plan, shots: Iterator[dict[str, Shot]], config: Config
) -> Piece:
    """Write one episode's rows and where each of them comes from."""
    start, stop = piece
    ticks_ns, index = plan.ticks_ns[start:stop], {stream: at[start:stop] for stream, at in plan.picks.items()}
    stamps_ns = {stream: clock.stamps_ns[index[stream]] for stream, clock in tape.clocks.items()}
    histograms = {IMAGES + camera: np.zeros((3, 256), np.int64) for camera in config.data.cameras}
    batches = _batches(ticks_ns, index[JOINTS], tape, shots, histograms, config)
    path = folder / f"{start}.arrow"
    head = next(batches)
    with pa.ipc.new_file(path, head.schema) as file:
        for batch in itertools.chain([head], batches):
            file.write_batch(batch)

    numbers = index | {JOINTS: tape.numbers[index[JOINTS]]}
    sources = {"frame_index": np.arange(stop - start), "tick_ns": ticks_ns}
    for stream in tape.clocks:
        sources |= {f"{stream}.stamp_ns": stamps_ns[stream], f"{stream}.message": numbers[stream]}
    pq.write_table(pa.table(sources), path.with_suffix(".parquet"))
    ages_ms = {stream: np.abs(ticks_ns - stamps) / 1e6 for stream, stamps in stamps_ns.items()}
    report: dict[str, Any] = {
        "frames": stop - start,
        "start_ns": int(ticks_ns[0]),
        "age_ms": {},
        "held": {},
        "dropped": {},
    }
    for stream, age in ages_ms.items():
        figures = {"mean": age.mean(), "p95": np.quantile(age, 0.95), "max": age.max()}
        report["age_ms"][stream] = {name: round(float(value), 3) for name, value in figures.items()}
    for camera in config.data.cameras:
        shown = len(np.unique(index[camera]))
        report["held"][camera] = stop - start - shown
        report["dropped"][camera] = int(index[camera][-1] - index[camera][0]) + 1 - shown
    return Piece(path, path.with_suffix(".parquet"), histograms, report)


def _batches(
    ticks_ns: sync.Int64,
    index: sync.Int64,
    tape: Tape,
    shots: Iterator[dict[str, Shot]],
    histograms: Histograms,
    config: Config,
) -> Iterator[pa.RecordBatch]:
    """Yield one episode's rows, a few at a time; the pictures' values are added to `histograms`."""
    rules, data = config.conventions, config.data
    angles = tape.angles[index]
    if data.resample == "linear":
        angles = sync.interpolate(tape.clocks[JOINTS].stamps_ns, tape.angles, ticks_ns, index)
    states = conventions.to_states(angles, rules.joint_sign if rules.apply_joint_sign else None, rules.wrap_angles)
    actions = conventions.to_actions(states, rules.action)
    for first in range(0, len(ticks_ns), BATCH_ROWS):
        rows = np.arange(first, min(first + BATCH_ROWS, len(ticks_ns)))
        taken = list(itertools.islice(shots, len(rows)))
        assert len(taken) == len(rows), "the second reading gave fewer pictures than the first"
        columns = {STATE: _vectors(states[rows]), ACTION: _vectors(actions[rows])}
        paths = pa.array([f"frame-{row:06d}.jpg" for row in rows])
        for camera in data.cameras:
            jpegs = pa.array([shot[camera].jpeg for shot in taken], pa.binary())
            columns[IMAGES + camera] = pa.StructArray.from_arrays([jpegs, paths], ["bytes", "path"])
            histograms[IMAGES + camera] += sum(shot[camera].histogram for shot in taken)
        columns["timestamp"] = pa.array((rows / data.fps).astype(np.float32))
        columns["frame_index"] = pa.array(rows)
        yield pa.record_batch(columns)


def _vectors(values: Float64) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), values.shape[1])
