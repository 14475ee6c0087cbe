"""The page of a conversion, meta/conversion.html: what became of every bag, and its episodes, the worst first.

The page needs nothing but itself. Equal datasets give equal bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from common.lerobot.dataset import Dataset
from common.lerobot.metadata import STATE
from common.report import render
from common.report.charts import Mark, Plot, histogram
from common.storage.files import write_file
from stage1_convert.dataset.record import RECORD_PATH, ConversionRecord, read_record
from stage1_convert.report.episode import describe_episode, read_sync, sample_ages_ms
from stage1_convert.report.issues import (
    EpisodeReport,
    has_excess,
    report_episodes,
    report_left_out,
    report_streams,
    worst_first,
)

PAGE = "meta/conversion.html"
DETAILED = 24  # episodes that are shown in detail: some 150 kB each
LISTED = 50  # bags and reasons in the table of what was left out
BEGINS = {"start": "its bag's start", "gap": "the end of a gap", "marker": "a marker", "pause": "the end of a pause"}


class Totals(NamedTuple):
    """Sums over all bags and episodes; images are counted over all cameras."""

    frames: int
    images: int
    repeated: int
    passed_over: int
    identical: int
    lost: int
    unavoidable: int
    gaps: int
    gap_frames: int
    left_out: int
    bad_messages: int
    warnings: int
    with_excess: int  # episodes that repeat or pass over more images than they must


def write_page(root: Path) -> None:
    """Write the page of the dataset at `root`, whose meta/conversion.json and files are complete."""
    write_file(root / PAGE, draw_page(root).encode(errors="backslashreplace"))


def draw_page(root: Path, detailed: int = DETAILED) -> str:
    """Return the page as HTML; the worst `detailed` episodes are shown in detail."""
    record, dataset = read_record(root), Dataset.open(root)
    assert record is not None, f"{root / RECORD_PATH} is written before the page"
    reports = report_episodes(record, dataset.fps)
    ranked = worst_first(reports)
    return render(
        "stage1_convert.report",
        "conversion.html.j2",
        record=record,
        dataset=dataset,
        cameras=[f"{camera} {width} x {height}" for camera, (height, width, _) in dataset.cameras.items()],
        state_size=dataset.features[STATE].shape[0],
        reports=reports,
        ranks={report.number: rank for rank, report in enumerate(ranked, 1)},
        details=[describe_episode(report, record, dataset) for report in ranked[:detailed]],
        tasks=sorted({report.bag.task for report in reports}),
        totals=_totals(record, reports),
        streams=report_streams(record, reports),
        image_ages=_draw_image_ages(dataset) if reports else [],
        left_out=report_left_out(record),
        listed=LISTED,
        begins=BEGINS,
        settings=yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True, width=100),
    )


def _draw_image_ages(dataset: Dataset) -> list[Plot]:
    """Draw for each camera how old the images are that the frames of all episodes show."""
    ages_ms: dict[str, list[float]] = {camera: [] for camera in dataset.cameras}
    for episode in dataset.episodes:
        sync = read_sync(dataset, episode.number)
        for camera in dataset.cameras:
            ages_ms[camera] += sample_ages_ms(sync, camera).tolist()
    return [_histogram(camera, found) for camera, found in ages_ms.items()]


def _histogram(camera: str, ages_ms: Sequence[float]) -> Plot:
    marks = [Mark("95 %", float(np.quantile(ages_ms, 0.95))), Mark("oldest", max(ages_ms))]
    label = f"Camera {camera}: number of frames by the age of their image"
    return histogram(label, ages_ms, " ms", marks, from_zero=True)


def _totals(record: ConversionRecord, reports: Sequence[EpisodeReport]) -> Totals:
    frames = sum(report.entry.frames for report in reports)
    return Totals(
        frames=frames,
        images=frames * len(record.cameras),
        repeated=sum(report.repeated for report in reports),
        passed_over=sum(report.passed_over for report in reports),
        identical=sum(report.identical for report in reports),
        lost=sum(sum(report.entry.lost.values()) for report in reports),
        unavoidable=sum(sum(report.entry.unavoidable.values()) for report in reports),
        gaps=sum(len(bag.gaps) for bag in record.bags),
        gap_frames=sum(gap.frames for bag in record.bags for gap in bag.gaps),
        left_out=sum(span.frames for bag in record.bags for span in bag.left_out),
        bad_messages=sum(bag.n_bad_messages for bag in record.bags),
        warnings=sum(len(bag.warnings) for bag in record.bags),
        with_excess=sum(has_excess(record, report.entry) for report in reports),
    )
