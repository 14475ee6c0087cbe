"""The folder --out: refused when it holds anything but an earlier evaluation, filled as a whole."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from common.command import UserError
from common.files import new_folder, read_json, remove_stale

FORMAT, FORMAT_VERSION = "stage3_eval", 1
SUMMARY, CURVES, ALL_EPISODES = "summary.json", "curves.png", "all_episodes.parquet"
_OURS = re.compile(r"episode_\d{3,}\.parquet|all_episodes\.parquet|summary\.json|curves\.png")


def require_ours(out: Path) -> None:
    """Raise UserError unless `out` is missing, empty, or an earlier evaluation and nothing else."""
    if not out.exists():
        return
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else [out.name]
    names = [name for name in names if not name.startswith(".tmp-")]  # left by a run that was killed
    foreign = [name for name in names if not _OURS.fullmatch(name)]
    if names and not foreign:
        summary = read_json(out / SUMMARY) if SUMMARY in names else None
        foreign = [] if isinstance(summary, dict) and summary.get("format") == FORMAT else names
    if foreign:
        raise UserError(f"--out {out} holds {foreign[0]}, which is no evaluation of ours; choose another folder")


@contextlib.contextmanager
def result_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write into, whose files are what `out` holds when the block ends well; else `out` stays."""
    if not out.is_mount() and (not out.exists() or os.access(out.parent, os.W_OK)):
        with new_folder(out, manifest=False) as folder:
            yield folder
        return
    # A container's output folder is a mount point, which cannot be renamed: build inside it and move file by file.
    remove_stale(out)
    folder = out / f".tmp-evaluation-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)  # of a killed run that had our process id, as in a restarted container
    folder.mkdir()
    try:
        yield folder
        move_into(out, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into(out: Path, folder: Path) -> None:
    """Replace the evaluation in `out` by the one in `folder`; the summary goes first and comes last, as the seal."""
    (out / SUMMARY).unlink(missing_ok=True)
    for path in out.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()
    for path in sorted(folder.iterdir(), key=lambda path: path.name == SUMMARY):
        path.replace(out / path.name)
