"""Names of a vector's values as other tools write them, brought to one word for each value. Pure."""

from typing import Any


def value_names(names: Any, size: int) -> tuple[tuple[str, ...] | None, str | None]:
    """Return a name for each of `size` values, all different, and what is odd about the declared ones; None: none.

    Nested lists and groups are flattened, maps from a name to its place are put in order, one word for the whole vector is
    numbered, and a name given twice gets a number.
    """
    words = _words(names)
    if not words:
        return None, None
    if len(words) == 1 and size > 1:
        return tuple(
            f"{words[0]}_{i}" for i in range(size)
        ), f"{words[0]!r} stands for {size} values, which are numbered"
    if len(words) != size:
        return None, f"{len(words)} names for {size} values are left out"
    found = _different(words)
    return found, None if list(found) == words else "a name is given twice and gets a number"


def _words(names: Any) -> list[str]:
    if names is None:
        return []
    if isinstance(names, dict):
        if names and all(isinstance(place, int) for place in names.values()):
            return [str(name) for name in sorted(names, key=names.__getitem__)]
        return [word for part in names.values() for word in _words(part)]
    if isinstance(names, list | tuple):
        return [word for part in names for word in _words(part)]
    return [str(names)] if str(names) else []


def _different(words: list[str]) -> tuple[str, ...]:
    found: list[str] = []
    for word in words:
        name, number = word, 1
        while name in found or (number > 1 and name in words):
            number += 1
            name = f"{word}_{number}"
        found.append(name)
    return tuple(found)
