"""The folder --out: refused when it holds anything else, filled episode by episode, sealed by its summary."""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.cli.command import UserError
from common.lerobot.dataset import Episode
from common.storage.files import LOCK, locked, read_json, remove_stale, sync, write_json

FORMAT, FORMAT_VERSION = "stage3_eval", 2
SUMMARY, PAGE, CURVES, ALL_EPISODES = "summary.json", "report.html", "curves.png", "all_episodes.parquet"
IDENTITY = "evaluation.json"
WORK = ".unfinished"  # inside --out: a container's output folder is a mount point, which no rename can replace
_OURS = re.compile(r"episode_\d{3,}\.parquet|all_episodes\.parquet|summary\.json|report\.html|curves\.png")


def require_ours(out: Path) -> None:
    """Raise UserError unless `out` is missing, empty, or an evaluation, finished or not, and nothing else."""
    if not out.exists():
        return
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else [out.name]
    foreign = [name for name in names if name != WORK and not _OURS.fullmatch(name)]
    if not foreign and any(name != WORK for name in names) and WORK not in names:
        summary = read_json(out / SUMMARY) if SUMMARY in names else None
        foreign = [] if isinstance(summary, dict) and summary.get("format") == FORMAT else names
    if foreign:
        raise UserError(f"--out {out} holds {foreign[0]}, which is no evaluation of ours; choose another folder")


def finished(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the summary in `out` when it is that of this very evaluation, None when there is none.

    Raises UserError naming what differs when it is another evaluation's.
    """
    require_ours(out)
    if not (out / SUMMARY).is_file():
        return None
    summary: dict[str, Any] = read_json(out / SUMMARY)
    there = summary.get("evaluation", {})
    differing = [key for key in identity if there.get(key) != identity[key]]
    if differing:
        raise UserError(
            f"--out {out} holds another evaluation: its {differing[0]} is {_short(there.get(differing[0]))}, now it is "
            f"{_short(identity[differing[0]])}; choose another folder or remove this one"
        )
    shutil.rmtree(out / WORK, ignore_errors=True)  # of a run that was killed after its last file
    return summary


@contextlib.contextmanager
def unfinished(out: Path, identity: dict[str, Any]) -> Iterator[Path]:
    """Yield the folder to work in; what it holds already is of this very evaluation, which was stopped.

    When the block ends well, the files become those of `out`, the summary last. When it does not, those that are whole stay
    for the next try. Raises UserError when another process is at work here.
    """
    folder = out / WORK
    with locked(folder, f"--out {out}: process {{holder}} is evaluating into it; wait or choose another"):
        remove_stale(folder)
        if (folder / IDENTITY).exists() and read_json(folder / IDENTITY) != identity:
            for path in (*folder.iterdir(), *out.iterdir()):
                if path.name not in (LOCK, WORK):
                    path.unlink()
        write_json(folder / IDENTITY, identity)
        yield folder
        publish(folder, out)
    shutil.rmtree(folder)


def publish(folder: Path, out: Path) -> None:
    """Move the results into `out`, each at once, the summary last, as the seal."""
    ours = [path for path in folder.iterdir() if _OURS.fullmatch(path.name)]
    for path in sorted(ours, key=lambda path: path.name == SUMMARY):
        sync(path)
        path.replace(out / path.name)
    sync(out)


def episode_file(episode: Episode | int) -> str:
    """Return the name of an episode's parquet file."""
    number = episode if isinstance(episode, int) else episode.number
    return f"episode_{number:03d}.parquet"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
