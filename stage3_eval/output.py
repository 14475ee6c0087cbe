"""The folder of --out: files are written into a temporary folder inside it and moved out when all of them are complete.

The temporary folder is inside because the output folder of a container is a mount point, which cannot be renamed.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from common.cli.command import UserError
from common.cli.validation import validate
from common.storage.disk import full_disk_named
from common.storage.files import LOCK, locked, read_json, require_ours, sync
from stage3_eval.metrics.summary import FORMAT_VERSION, Header, Summary

SUMMARY, PAGE, ALL_EPISODES = "summary.json", "report.html", "all_episodes.parquet"
WORK = ".unfinished"
_PLACES = ("checkpoint", "dataset")  # copies elsewhere have the same results
# curves.png is of earlier versions.
_RESULTS = ("episode_[0-9][0-9][0-9]*.parquet", ALL_EPISODES, SUMMARY, PAGE, "curves.png")


def require_evaluation(out: Path) -> None:
    """Raise UserError unless `out` is missing, empty, or an evaluation, finished or not, and nothing else."""
    finished = not (out / WORK).is_dir()
    require_ours(out, "evaluation", sign=SUMMARY if finished else None, names=(*_RESULTS, WORK))


def read_summary(folder: Path) -> Summary:
    """Read the summary in `folder`; raises UserError when it is missing, damaged, or of another version."""
    path, found = folder / SUMMARY, read_json(folder / SUMMARY)
    where = f"{path} is not a summary of format version {FORMAT_VERSION}, evaluate again into another folder: "
    version = found.get("format_version") if isinstance(found, dict) else None
    if version != FORMAT_VERSION:  # before its other keys
        raise UserError(f"{where}format_version={version}: expected {FORMAT_VERSION}")
    return validate(Summary, found, where)


def read_finished(out: Path, header: Header) -> Summary | None:
    """Return the summary in `out` when it is of the same evaluation, None when there is none.

    Raises UserError naming the difference when it is of another evaluation.
    """
    require_evaluation(out)
    if not (out / SUMMARY).is_file():
        return None
    summary = read_summary(out)
    for name, wanted in header:
        found = getattr(summary, name)
        if name not in _PLACES and found != wanted:
            raise UserError(
                f"--out {out} holds another evaluation: its {name} is {_shorten(found)}, now it is {_shorten(wanted)}; "
                "choose another folder or remove this one"
            )
    shutil.rmtree(out / WORK, ignore_errors=True)  # left by a run that was killed after it moved its last file
    return summary


@contextlib.contextmanager
def new_results(out: Path) -> Iterator[Path]:
    """Yield an empty folder; when the block succeeds, its files are moved into `out`, the summary last.

    What a killed evaluation left in `out` is removed first. Raises UserError when another process evaluates into `out`.
    """
    folder = out / WORK
    with locked(folder, f"--out {out}: process {{holder}} is evaluating into it; wait or choose another"):
        try:
            for path in (*folder.iterdir(), *(path for name in _RESULTS for path in out.glob(name))):
                if path.name != LOCK:
                    path.unlink()
            with full_disk_named(out):
                yield folder
            for path in sorted(folder.glob("[!.]*"), key=lambda path: path.name == SUMMARY):
                sync(path)
                path.replace(out / path.name)
            sync(out)
        finally:
            shutil.rmtree(folder)


def episode_file(number: int) -> str:
    """Return the name of the parquet file of an episode."""
    return f"episode_{number:03d}.parquet"


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
