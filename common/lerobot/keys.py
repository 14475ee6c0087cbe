"""The features that are used, and their names: another tool's `state` as `observation.state`, some of the cameras. Pure."""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence

from common.cli.command import UserError
from common.lerobot.metadata import ACTION, IMAGE_DTYPES, IMAGES, INDEX_COLUMNS, NUMBERS, STATE, Feature, image_key

# Words in other tools' names, the likeliest first.
WORDS = {STATE: ("state", "qpos", "joint", "proprio", "pos"), ACTION: ("action", "command", "target", "control")}


def parse_renames(words: Sequence[str]) -> dict[str, str]:
    """Return the mapping of a command line, OLD=NEW ...; raises UserError."""
    rename: dict[str, str] = {}
    for word in words:
        old, _, new = word.partition("=")
        if not (old and new) or old in rename:
            raise UserError(f"--rename {word}: expected OLD=NEW, each OLD once, such as state={STATE}")
        rename[old] = new
    return rename


def stored_keys(features: Mapping[str, Feature], rename: Mapping[str, str]) -> dict[str, str]:
    """Return the key in the dataset's files of every feature, by its name; `rename` maps from the one to the other.

    Raises UserError where a key does not exist, or two features would have one name.
    """
    for old, new in rename.items():
        if old not in features:
            done = f", but {new} itself: leave this rename out (data.rename={{}} or --rename without values renames nothing)"
            raise UserError(
                f"rename {old}={new}: the dataset has no {old}{done if new in features else _nearest(old, features)}"
            )
        if not re.fullmatch(r"action|observation\.[^/]+", new):
            close = _nearest(new, (STATE, ACTION))
            raise UserError(f"rename {old}={new}: expected {STATE}, {ACTION}, {IMAGES}NAME or observation.NAME{close}")
    stored: dict[str, str] = {}
    for key in features:
        name = rename.get(key, key)
        if name in stored:
            raise UserError(f"rename: {stored[name]} and {key} would both be {name}; give each a name of its own")
        stored[name] = key
    return stored


def used_features(features: Mapping[str, Feature], use_cameras: Collection[str] | None) -> dict[str, Feature]:
    """Return the features without the cameras that are not in `use_cameras`, short or full names; None: with all.

    Raises UserError where a camera does not exist.
    """
    if use_cameras is None:
        return dict(features)
    cameras = [key for key, feature in features.items() if feature.dtype in IMAGE_DTYPES]
    used = {camera if camera in cameras else image_key(camera): camera for camera in use_cameras}
    for key, camera in used.items():
        if key not in cameras:
            close = _nearest(camera, [key.removeprefix(IMAGES) for key in cameras])
            raise UserError(f"use_cameras: the dataset has no camera {camera}{close}")
    return {key: feature for key, feature in features.items() if key not in cameras or key in used}


def require_names(features: Mapping[str, Feature], stored: Mapping[str, str]) -> None:
    """Raise UserError, with names to paste, when the state, the action or images do not have LeRobot's names."""
    missing = [name for name in (STATE, ACTION) if name not in features]
    images = [key for key, f in features.items() if f.dtype in IMAGE_DTYPES and not key.startswith("observation.")]
    if not missing and not images:
        return
    rename = {key: name for name, key in stored.items() if key != name}
    by_key = {stored[name]: feature for name, feature in features.items()}
    rename |= {_guess(by_key, name): name for name in missing}
    rename |= {key: IMAGES + re.sub(r"^images\.|^observation/|/", "", key) for key in images}
    what = [*(f"no {name}" for name in missing), *([f"images named {', '.join(images)}"] if images else [])]
    pairs = ", ".join(f"{old}: {new}" for old, new in rename.items())
    words = " ".join(f"{old}={new}" for old, new in rename.items())
    raise UserError(
        f"it has {', '.join(what)}; its features are {', '.join(features)}; if these are meant, train with "
        f"--override 'data.rename={{{pairs}}}', evaluate and check with --rename {words}"
    )


def _guess(features: Mapping[str, Feature], name: str) -> str:
    """Return the key of the numbers that another tool's dataset probably means by `name`."""
    others = (STATE, ACTION, *INDEX_COLUMNS)
    vectors = [key for key, f in features.items() if f.dtype in NUMBERS and len(f.shape) == 1 and key not in others]
    for word in WORDS[name]:
        found = [key for key in vectors if word in key.lower()]
        if found:
            return min(found, key=len)
    return "KEY"


def _nearest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; it has {', '.join(known) or 'none'}"
