"""Finds the `pretrained_model/` folder of a run, a checkpoint or itself."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from common.cli.command import UserError, one_line
from common.storage.files import MANIFEST, find_damage, read_json

PRETRAINED, CONFIG, WEIGHTS = "pretrained_model", "config.json", "model.safetensors"
_CHECKPOINT_NAME = re.compile(r"(?:checkpoint_)?(\d{6,})")  # ours, and LeRobot's below checkpoints/
log = logging.getLogger(__name__)


def pretrained_folder(path: Path) -> Path:
    """Return the pretrained_model folder that `path` stands for.

    `path` is that folder itself, the checkpoint around it (numbered, `best` or `last`), or a run of ours
    (`checkpoint_005000/`) or of LeRobot (`checkpoints/005000/`), which stands for its newest complete checkpoint. Damaged
    checkpoints are skipped with a warning. Raises UserError when there is none.
    """
    for folder in (path, path / PRETRAINED):
        if (folder / CONFIG).is_file():
            return folder
    newest_first = sorted(_checkpoints(path), reverse=True)
    for _, folder in newest_first:
        problem = damage(folder)
        if problem is None:
            log.info("using %s of the run in %s", folder.name, path)
            return folder / PRETRAINED
        log.warning("%s is damaged and skipped: %s", folder, problem)
    what = f"none of its {len(newest_first)} checkpoints is complete" if newest_first else f"{CONFIG} is missing"
    raise UserError(f"no checkpoint in {path}: {what}; give a run, a checkpoint or a pretrained_model folder")


def damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint's pretrained_model/, by its manifest or, without one, by its content."""
    folder = checkpoint / PRETRAINED
    try:
        if (checkpoint / MANIFEST).is_file() and (found := find_damage(checkpoint, f"{PRETRAINED}/")):
            return found
        read_json(folder / CONFIG)
        with safe_open(folder / WEIGHTS, framework="pt"):  # reads the header and compares it with the file's size
            return None
    except (UserError, SafetensorError, OSError) as error:
        return one_line(error)


def _checkpoints(run: Path) -> Iterator[tuple[int, Path]]:
    for parent in (run, run / "checkpoints"):
        for folder in parent.iterdir() if parent.is_dir() else ():
            match = _CHECKPOINT_NAME.fullmatch(folder.name)
            if match and folder.is_dir() and not folder.is_symlink():
                yield int(match[1]), folder
