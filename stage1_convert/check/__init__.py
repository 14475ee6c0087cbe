"""Check a dataset against the LeRobot v3.0 format, and against our own records beside it."""

from pathlib import Path
from typing import NamedTuple

from common.cli.command import UserError
from common.report.formatting import counted
from stage1_convert.check.findings import Finding, Findings
from stage1_convert.check.images import check_images
from stage1_convert.check.info import Declared, check_info
from stage1_convert.check.meta import check_episodes, check_tasks
from stage1_convert.check.provenance import check_provenance
from stage1_convert.check.rows import check_actions, check_file_names, check_rows, check_task_use
from stage1_convert.check.statistics import check_statistics

__all__ = ["Finding", "Report", "check", "print_report"]


class Report(NamedTuple):
    """How much was checked, and the findings."""

    files: int
    frames: int
    images: int
    findings: list[Finding]


def check(root: Path) -> Report:
    """Check the LeRobot v3.0 dataset at `root`, whoever wrote it; raises UserError when there is none."""
    if not (root / "meta" / "info.json").is_file():
        raise UserError(f"no dataset in {root}: meta/info.json is missing")
    findings = Findings(root)
    declared = check_info(root / "meta" / "info.json", findings)
    frames, images = _check_content(root, declared, findings) if declared else (0, 0)
    return Report(len(findings.files), frames, images, findings.found)


def _check_content(root: Path, declared: Declared, findings: Findings) -> tuple[int, int]:
    """Check what info.json describes; what depends on an unreadable file is not checked."""
    _check_names(root, declared, findings)
    tasks = check_tasks(root, declared, findings)
    episodes = check_episodes(root, declared, tasks, findings)
    rows = check_rows(root, declared, episodes, findings)
    if rows is None or episodes is None:
        return rows.parts[-1].stop if rows else 0, 0
    if tasks is not None:
        check_task_use(rows, episodes, tasks, findings)
    check_actions(rows, declared, episodes, findings)
    images = check_images(root, declared, rows, episodes, findings)
    if episodes.bounds[-1:] == [(episodes.bounds[-1][0], rows.parts[-1].stop)]:
        check_statistics(root, declared, rows, images, episodes, findings)
    check_provenance(root, declared, episodes, findings)
    return rows.parts[-1].stop, images.count


def _check_names(root: Path, declared: Declared, findings: Findings) -> None:
    check_file_names(root / "data", "parquet", declared.chunks_size, findings)
    check_file_names(root / "meta" / "episodes", "parquet", declared.chunks_size, findings)
    videos = root / "videos"
    for folder in sorted(videos.iterdir()) if videos.is_dir() else ():
        if folder.name in declared.of_dtype("video"):
            check_file_names(folder, "mp4", declared.chunks_size, findings)
        else:
            findings.add(folder, "belongs to no video feature in info.json")
    if (root / "images").exists():
        findings.add(root / "images", "is left over from a recording that did not end: LeRobot removes it")


def print_report(report: Report) -> int:
    """Print one line for each finding and a summary; returns the exit code, 0 or 2."""
    for finding in report.findings:
        print(finding)
    hints = sum(finding.is_hint for finding in report.findings)
    faults = len(report.findings) - hints
    found = counted(faults, "finding") if faults else "no findings"
    noted = f", {counted(hints, 'hint')}" if hints else ""
    usable = "to be repaired before training" if faults else "usable for training"
    print(f"{report.files} files, {report.frames} frames, {report.images} images: {found}{noted}; {usable}")
    return 2 if faults else 0
