"""A run folder, one of its checkpoints or a pretrained_model folder in; the pretrained_model folder to read out."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from common.cli.command import UserError, one_line
from common.storage.files import MANIFEST, find_damage, read_json

PRETRAINED, CONFIG, WEIGHTS = "pretrained_model", "config.json", "model.safetensors"
_NUMBERED = re.compile(r"(?:checkpoint_)?(\d{6,})")  # ours, and LeRobot's below checkpoints/
log = logging.getLogger(__name__)


def pretrained_folder(path: Path) -> Path:
    """Return the pretrained_model folder that `path` stands for.

    That folder itself; the numbered checkpoint, `best` or `last` around it; or a run, ours (`checkpoint_005000/`) or
    LeRobot's (`checkpoints/005000/`), which stands for its newest checkpoint that is whole. A damaged one is passed over
    with a warning. Raises UserError when there is none.
    """
    for folder in (path, path / PRETRAINED):
        if (folder / CONFIG).is_file():
            return folder
    newest_first = sorted(_checkpoints(path), key=lambda folder: int(_NUMBERED.fullmatch(folder.name)[1]), reverse=True)  # type: ignore[index]
    for folder in newest_first:
        problem = damage(folder)
        if problem is None:
            log.info("taking %s of the run in %s", folder.name, path)
            return folder / PRETRAINED
        log.warning("%s is damaged and passed over: %s", folder, problem)
    what = f"none of its {len(newest_first)} checkpoints is whole" if newest_first else f"{CONFIG} is missing"
    raise UserError(f"no checkpoint in {path}: {what}; give a run, a checkpoint or a pretrained_model folder")


def damage(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint's pretrained_model/, by its manifest or, without one, by its content."""
    folder = checkpoint / PRETRAINED
    try:
        if (checkpoint / MANIFEST).is_file() and (found := find_damage(checkpoint, f"{PRETRAINED}/")):
            return found
        read_json(folder / CONFIG)
        with safe_open(folder / WEIGHTS, framework="pt"):  # reads the header and holds it against the file's size
            return None
    except (UserError, SafetensorError, OSError) as error:
        return one_line(error)


def _checkpoints(run: Path) -> Iterator[Path]:
    for parent in (run, run / "checkpoints"):
        for folder in parent.iterdir() if parent.is_dir() else ():
            if _NUMBERED.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                yield folder
