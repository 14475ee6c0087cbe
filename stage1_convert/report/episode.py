"""Details of one episode for the page: its place in its bag, films, curves, and the ages of its samples."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from common.lerobot.dataset import Dataset
from common.lerobot.metadata import ACTION, STATE, data_file
from common.lerobot.values import as_array, read_table
from common.report.charts import Line, Plot, Span, short, sparkline, timeline
from common.report.formatting import counted, words
from common.report.images import PageImage, film
from stage1_convert.dataset.record import SYNC_PATH, ConversionRecord, EpisodeEntry
from stage1_convert.report.issues import NS, EpisodeReport, stop_ns

UNITS = {"velocity": "rad/s", "effort": "Nm"}
CELLS = 200  # of a timeline of frames: shorter spans cannot be told apart
Sync = dict[str, npt.NDArray[np.int64]]  # columns of an episode's file in meta/sync


class Figure(NamedTuple):
    """Plots below each other under one caption."""

    caption: str
    unit: str
    plots: list[Plot]


class EpisodeDetails(NamedTuple):
    """An episode that is shown in detail."""

    report: EpisodeReport
    in_bag: Plot
    films: dict[str, list[PageImage]]  # camera -> images
    timelines: dict[str, Plot]  # camera -> where frames repeat an image or pass over some, for cameras with such frames
    curves: list[Figure]
    ages: list[Figure]


def describe_episode(report: EpisodeReport, record: ConversionRecord, dataset: Dataset) -> EpisodeDetails:
    """Read an episode's images, numbers and sources.

    Raises UserError naming camera, episode and frame when an image is damaged or missing.
    """
    episode, sync = dataset.episodes[report.number], read_sync(dataset, report.number)
    timelines = {camera: _timeline(camera, sync, report.entry, dataset.fps) for camera in dataset.cameras}
    return EpisodeDetails(
        report,
        _in_bag(report, dataset.fps),
        {camera: film(dataset, episode, camera) for camera in dataset.cameras},
        {camera: plot for camera, plot in timelines.items() if len(plot.bars) > 1},
        _curves(report, record, dataset),
        _ages(report, record, sync),
    )


def read_sync(dataset: Dataset, number: int) -> Sync:
    """Read which message of each stream every frame of an episode shows."""
    chunk, file = data_file(number)
    table = pq.read_table(dataset.root / SYNC_PATH.format(chunk_index=chunk, file_index=file), partitioning=None)
    return {name: table.column(name).to_numpy() for name in table.column_names}


def sample_ages_ms(sync: Sync, stream: str) -> npt.NDArray[np.float64]:
    """Return how far the sample of a stream lies from each frame."""
    ages: npt.NDArray[np.float64] = np.abs(sync["tick_ns"] - sync[f"{stream}.stamp_ns"]) / 1e6
    return ages


def _timeline(camera: str, sync: Sync, entry: EpisodeEntry, fps: int) -> Plot:
    """Draw the frames that show the image of the frame before, and those before which images were passed over."""
    step = np.diff(sync[f"{camera}.message"])
    repeated, passed_over = np.flatnonzero(step == 0) + 1, entry.passed_over.get(camera, 0)
    after_others = np.flatnonzero(step > 1) + 1 if passed_over else repeated[:0]
    spans = [
        Span(0.0, 1.0, "idle"),
        *_frame_spans(after_others, entry.frames, "passed-over"),
        *_frame_spans(repeated, entry.frames, "repeated"),
    ]
    label = f"Camera {camera}: {counted(len(repeated), 'frame')} of {entry.frames} with the image of the frame before"
    label += f", {counted(passed_over, 'image')} passed over" if passed_over else ""
    return timeline(label, spans, "0 s", f"{entry.frames / fps:.1f} s")


def _frame_spans(frames: npt.NDArray[np.intp], length: int, kind: str) -> list[Span]:
    """Return the parts of a timeline that hold these frames of an episode of `length` frames."""
    n_cells = min(length, CELLS)
    return [Span(cell / n_cells, (cell + 1) / n_cells, kind) for cell in np.unique(frames * n_cells // length).tolist()]


def _in_bag(report: EpisodeReport, fps: float) -> Plot:
    """Draw the whole bag: its episodes, its gaps, and what is in no frame."""
    bag, entry = report.bag, report.entry
    first_ns = min(clock.first_ns for clock in bag.clock.values())
    length_ns = max(max(clock.last_ns for clock in bag.clock.values()) - first_ns, 1)

    def share(time_ns: int) -> float:
        return min(max((time_ns - first_ns) / length_ns, 0.0), 1.0)

    spans = [Span(0.0, 1.0, "idle")]
    for other in bag.episodes:
        kind = "this" if other.episode_index == report.number else "episode"
        spans.append(Span(share(other.start_ns), share(stop_ns(other, fps)), kind))
    spans += [Span(share(gap.start_ns), share(stop_ns(gap, fps)), "gap") for gap in bag.gaps]
    start_s, stop_s = (entry.start_ns - first_ns) / NS, (stop_ns(entry, fps) - first_ns) / NS
    length = f"{length_ns / NS:.1f} s"
    label = (
        f"The bag, {length}: this episode from {start_s:.1f} to {stop_s:.1f} s, "
        f"{counted(len(bag.episodes), 'episode')} and {counted(len(bag.gaps), 'gap')} in all"
    )
    return timeline(label, spans, "0 s", length)


def _curves(report: EpisodeReport, record: ConversionRecord, dataset: Dataset) -> list[Figure]:
    """Draw each dimension of the state above the action of the same name, then the actions that have no state."""
    table = read_table(dataset.rows_path(dataset.episodes[report.number]), [STATE, ACTION])
    columns: dict[str, dict[str, npt.NDArray[np.floating]]] = {}
    for key, kind in ((STATE, "state"), (ACTION, "action")):
        feature = dataset.features[key]
        values = as_array(key, table.column(key), feature)
        names = feature.names or [f"dimension {place}" for place in range(values.shape[1])]
        for name, column in zip(names, values.T, strict=True):
            columns.setdefault(name, {})[kind] = column
    return [
        Figure(name, _unit(name, record), [_sparkline(name, kind, values) for kind, values in by_kind.items()])
        for name, by_kind in columns.items()
    ]


def _sparkline(name: str, kind: str, values: npt.NDArray[np.floating]) -> Plot:
    height = 56 if kind == "state" else 40
    return sparkline(f"{name}, {kind}", Line(kind, np.arange(len(values)), values, kind), height=height)


def _ages(report: EpisodeReport, record: ConversionRecord, sync: Sync) -> list[Figure]:
    """Draw how far the samples of every stream lie from each frame, against the limit."""
    figures = []
    for stream in [name.removesuffix(".stamp_ns") for name in sync if name.endswith(".stamp_ns")]:
        rule, age_ms = record.streams[stream], sample_ages_ms(sync, stream)
        title = f"{stream} ({words(report.bag.resample.get(stream, rule.resample))})"
        line = Line("age", np.arange(len(age_ms)), age_ms, "state")
        text = f"oldest {short(float(age_ms.max()))} of at most {short(rule.limit_ms)} ms"
        figures.append(Figure(title, text, [sparkline(title, line, "ms", 64, rule.limit_ms)]))
    return figures


def _unit(name: str, record: ConversionRecord) -> str:
    joint, _, field = name.partition(".")
    return UNITS.get(field, "rad") if joint in record.joint_names else ""
