"""Finds the `pretrained_model/` folder of a run, a checkpoint or itself."""

import logging
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from common.cli.command import UserError, one_line
from common.storage.files import MANIFEST, find_damage, read_json

PRETRAINED, CONFIG, WEIGHTS = "pretrained_model", "config.json", "model.safetensors"
OUR_NAME, ANY_NAME = r"checkpoint_(\d{6,})", r"(?:checkpoint_)?(\d{6,})"  # LeRobot's are only numbers
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
    found = [*list_checkpoints(path, ANY_NAME), *list_checkpoints(path / "checkpoints", ANY_NAME)]
    newest_first = sorted(found, reverse=True)
    for _, folder in newest_first:
        problem = damage(folder)
        if problem is None:
            log.info("using %s of the run in %s", folder.name, path)
            return folder / PRETRAINED
        log.warning("%s is damaged and skipped: %s", folder, problem)
    what = f"none of its {len(newest_first)} checkpoints is complete" if newest_first else f"{CONFIG} is missing"
    raise UserError(f"no checkpoint in {path}: {what}; give a run, a checkpoint or a pretrained_model folder")


def list_checkpoints(folder: Path, name: str = OUR_NAME) -> list[tuple[int, Path]]:
    """Return (step, folder) of every numbered checkpoint in a folder, ordered by step; `name` is the pattern of their names."""
    matches = ((re.fullmatch(name, path.name), path) for path in folder.glob("*"))
    return sorted((int(match[1]), path) for match, path in matches if match)


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
