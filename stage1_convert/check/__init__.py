"""Checks a dataset as LeRobot and the training read it.

The dataset is opened by the code that a training opens it with: what that refuses is the first finding, and whether it
refuses anything is the verdict. The rules below find what is wrong beyond that.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import pyarrow as pa

from common.cli.command import UserError, one_line
from common.lerobot.dataset import Dataset
from common.lerobot.metadata import IMAGE_DTYPES
from common.lerobot.training import require_trainable, training_columns
from common.report.formatting import counted
from stage1_convert.check.findings import Finding, Kind, Opened
from stage1_convert.check.images import check_images, readable_cameras
from stage1_convert.check.metadata import (
    check_axes,
    check_columns,
    check_episodes,
    check_info,
    check_left_over,
    check_tasks,
)
from stage1_convert.check.rows import check_actions, check_data_files, check_finite, check_index_columns
from stage1_convert.check.statistics import check_statistics

__all__ = ["Finding", "Report", "check", "print_report"]

Rule = Callable[[Opened], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    check_info,
    check_axes,
    check_tasks,
    check_episodes,
    check_left_over,
    check_columns,
    check_data_files,
    check_index_columns,
    check_finite,
    check_actions,
    check_statistics,
)


class Report(NamedTuple):
    """How much was checked, and the findings."""

    frames: int
    images: int
    findings: list[Finding]

    @property
    def is_usable(self) -> bool:
        """Whether a training accepts the dataset."""
        return not any(finding.is_refused for finding in self.findings)


def check(root: Path, rename: Mapping[str, str] | None = None, use_cameras: Collection[str] | None = None) -> Report:
    """Check the LeRobot v3.0 dataset at `root`, whoever wrote it; raises UserError when there is none.

    `rename` and `use_cameras` are what a training gets as data.rename and data.use_cameras.
    """
    if not (root / "meta" / "info.json").is_file():
        raise UserError(f"no dataset in {root}: meta/info.json is missing")
    try:
        dataset = Dataset.open(root, rename, use_cameras)
    except UserError as error:
        return Report(0, 0, [_fault(root, error, is_refused=True)])
    findings: list[Finding] = []
    columns = _read(dataset, findings)
    findings += check_images(dataset)
    for rule in RULES:
        findings += _apply(rule, Opened(dataset, columns))
    first = {finding.text: finding for finding in reversed(findings)}
    images = dataset.n_frames * len(readable_cameras(dataset))
    return Report(dataset.n_frames, images, list(reversed(first.values())))


def _read(dataset: Dataset, findings: list[Finding]) -> dict[str, npt.NDArray[Any]]:
    """Read the columns: first as a training does, whose refusals count, then each that is still missing."""
    columns: dict[str, npt.NDArray[Any]] = {}
    try:
        require_trainable(dataset)
    except UserError as error:
        findings.append(_fault(dataset.root, error, is_refused=True))
    try:
        columns |= training_columns(dataset)
    except UserError as error:
        findings.append(_fault(dataset.root, error, is_refused=True))
    numbers = [key for key, feature in dataset.features.items() if feature.dtype not in (*IMAGE_DTYPES, "string")]
    return columns | _read_others(dataset, [key for key in numbers if key not in columns], findings)


def _read_others(dataset: Dataset, keys: list[str], findings: list[Finding]) -> dict[str, npt.NDArray[Any]]:
    """Read columns in one go; where that fails, each by itself, so that one of them costs no other."""
    try:
        return dataset.columns(keys) if keys else {}
    except UserError as error:
        if len(keys) > 1:
            return {name: column for key in keys for name, column in _read_others(dataset, [key], findings).items()}
        findings.append(_fault(dataset.root, error))
        return {}


def _apply(rule: Rule, opened: Opened) -> list[Finding]:
    """Return the findings of a rule; where it cannot read a file, that is the last of them."""
    findings: list[Finding] = []
    try:
        findings.extend(rule(opened))
    except UserError as error:
        findings.append(_fault(opened.root, error))
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        what = rule.__name__.removeprefix("check_").replace("_", " ")
        findings.append(_fault(opened.root, UserError(f"{what} cannot be checked: {one_line(error)}")))
    return findings


def _fault(root: Path, error: UserError, is_refused: bool = False) -> Finding:
    """Return an error as a finding, its paths relative to the dataset."""
    return Finding("fault", str(error).replace(f"{root}/", "").replace(f"{root}: ", ""), is_refused)


def print_report(report: Report) -> int:
    """Print one line for each finding and a summary; returns the exit code, 0 or 2."""
    kinds: tuple[Kind, ...] = ("fault", "warning")
    for finding in sorted(report.findings, key=lambda finding: kinds.index(finding.kind)):
        print(finding)
    counts = {kind: sum(finding.kind == kind for finding in report.findings) for kind in kinds}
    found = ", ".join(counted(number, kind) for kind, number in counts.items() if number) or "no findings"
    usable = "yes" if report.is_usable else "no"
    print(f"{report.frames} frames, {report.images} images: {found}; usable for training: {usable}")
    return 2 if counts["fault"] else 0
