"""A file in, the same file damaged as disks, networks and hostile hands damage it, out; a function of the seed."""

import random
from pathlib import Path

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
