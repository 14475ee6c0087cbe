"""A dataset in; every rule of the LeRobot v3.0 format, and of our own records beside it, that it breaks, out."""

from pathlib import Path
from typing import NamedTuple

from common.cli.command import UserError
from stage1_convert.check.faults import Finding, Findings
from stage1_convert.check.images import check_images
from stage1_convert.check.info import Declared, check_info
from stage1_convert.check.meta import check_episodes, check_tasks
from stage1_convert.check.rows import check_actions, check_file_names, check_rows, check_task_use
from stage1_convert.check.statistics import check_statistics
from stage1_convert.check.traces import check_traces

__all__ = ["Finding", "Report", "check", "print_report"]


class Report(NamedTuple):
    """What was looked at, and what is wrong."""

    files: int
    frames: int
    images: int
    faults: list[Finding]


def check(root: Path) -> Report:
    """Check the LeRobot v3.0 dataset at `root`, whoever wrote it; raises UserError when there is none."""
    if not (root / "meta" / "info.json").is_file():
        raise UserError(f"no dataset in {root}: meta/info.json is missing")
    faults = Findings(root)
    declared = check_info(root / "meta" / "info.json", faults)
    frames, images = _check_content(root, declared, faults) if declared else (0, 0)
    return Report(len(faults.files), frames, images, faults.found)


def _check_content(root: Path, declared: Declared, faults: Findings) -> tuple[int, int]:
    """Check what info.json describes; what cannot be read keeps what depends on it from being checked."""
    _check_names(root, declared, faults)
    tasks = check_tasks(root, declared, faults)
    episodes = check_episodes(root, declared, tasks, faults)
    rows = check_rows(root, declared, episodes, faults)
    if rows is None or episodes is None:
        return rows.parts[-1].stop if rows else 0, 0
    if tasks is not None:
        check_task_use(rows, episodes, tasks, faults)
    check_actions(rows, declared, episodes, faults)
    images = check_images(root, declared, rows, episodes, faults)
    if episodes.bounds[-1:] == [(episodes.bounds[-1][0], rows.parts[-1].stop)]:
        check_statistics(root, declared, rows, images, episodes, faults)
    check_traces(root, declared, episodes, faults)
    return rows.parts[-1].stop, images.count


def _check_names(root: Path, declared: Declared, faults: Findings) -> None:
    check_file_names(root / "data", "parquet", declared.chunks_size, faults)
    check_file_names(root / "meta" / "episodes", "parquet", declared.chunks_size, faults)
    videos = root / "videos"
    for folder in sorted(videos.iterdir()) if videos.is_dir() else ():
        if folder.name in declared.of("video"):
            check_file_names(folder, "mp4", declared.chunks_size, faults)
        else:
            faults.add(folder, "belongs to no video feature in info.json")
    if (root / "images").exists():
        faults.add(root / "images", "is left over from a recording that did not end: LeRobot removes it")


def print_report(report: Report) -> int:
    """Print one line for each fault and a summary; returns the exit code, 0 or 2."""
    for fault in report.faults:
        print(fault)
    seen = f"{report.files} files, {report.frames} frames, {report.images} images"
    n = len(report.faults)
    print(f"{seen}: " + (f"{n} fault{'s' * (n > 1)} found" if n else "no fault found"))
    return 2 if report.faults else 0
