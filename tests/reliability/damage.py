"""A file in, the same file damaged as disks, networks and hostile hands damage it, out; a function of the seed."""

import copy
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KINDS = ("truncate", "flip", "zero", "swap", "noise")


def damage(path: Path, seed: int) -> str:
    """Damage a file in place and return what was done to it."""
    chance, data = random.Random(seed), bytearray(path.read_bytes())
    kind, size = KINDS[seed % len(KINDS)], len(data)
    if kind == "truncate":
        at = chance.randrange(size)
        del data[at:]
        done = f"truncated to {at} of {size} bytes"
    elif kind == "flip":
        places = [chance.randrange(size * 8) for _ in range(chance.choice((1, 1, 1, 8)))]
        for at in places:
            data[at // 8] ^= 1 << at % 8
        done = f"bits {places} flipped"
    else:
        length = min(chance.choice((4, 16, 64, 512, 4096)), size // 2)
        one, two = (chance.randrange(size - length) for _ in range(2))
        if kind == "swap":
            two = one + length if abs(one - two) < length and one + 2 * length <= size else two
            data[one : one + length], data[two : two + length] = data[two : two + length], data[one : one + length]
        else:
            data[one : one + length] = bytes(length) if kind == "zero" else chance.randbytes(length)
        done = f"{length} bytes at {one}: {kind}" + (f" with {two}" if kind == "swap" else "")
    path.write_bytes(data)
    return done


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a document."""
    found: list[tuple[Any, Any]] = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += [(value, key), *places(item)]
    return found


def change_values(document: Any, chance: random.Random, odd: Sequence[Any], names: Sequence[Any]) -> Any:
    """Return a document of which some parts are replaced (by others or by `odd` ones), removed, or renamed to `names`."""
    document = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 2, 4))):
        there = places(document)
        if not there:
            break
        (holder, key), (other, place) = chance.choice(there), chance.choice(there)
        kind = chance.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[key] = copy.deepcopy(other[place])
        elif kind == 2 and isinstance(holder, dict):
            holder[chance.choice(names)] = holder.pop(key)
        else:
            holder[key] = chance.choice(odd)
    return document


def damage_json(path: Path, seed: int) -> str:
    """Change values of a JSON file in place and return what it holds now."""
    odd: list[Any] = [
        None,
        True,
        0,
        -1,
        3,
        10**30,
        0.5,
        float("inf"),
        "",
        "x" * 999,
        [],
        {},
        [[]],
        [None],
        {"": None},
        ["a", 1],
        "../x",
    ]
    document = json.loads(path.read_text())
    path.write_text(json.dumps(change_values(document, random.Random(seed), odd, ("shape", "type", "", "x"))))
    return path.read_text()
