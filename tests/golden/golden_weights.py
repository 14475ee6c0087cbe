"""Names and shapes in, the weights of the tiny reference checkpoint out.

Every tensor is a pure function of its name and shape, by integer hashing (no libm, no generator), so any machine gets
bit-identical float32 values:

    seed = crc32(name)
    n_j  = splitmix64(seed * 0x9E3779B97F4A7C15 + j + 1)      j = 0 .. numel - 1, uint64, wrapping around
    u_j  = (n_j >> 40) / 2**24 * 2 - 1                         float32, exact, in [-1, 1)
    w_j  = offset + scale * u_j                                float32, reshaped in C order

`model.vae_encoder_pos_enc` is not hashed: it is the fixed sinusoid table.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def build(shapes: Mapping[str, Sequence[int]]) -> dict[str, Floats]:
    """Build every tensor of a checkpoint from its name -> shape."""
    return {name: tensor(name, shape) for name, shape in shapes.items()}


def tensor(name: str, shape: Sequence[int]) -> Floats:
    """Build one tensor."""
    if name.endswith("vae_encoder_pos_enc"):
        return sinusoid(shape[1], shape[2])[None]
    scale, offset = scale_offset(name, shape)
    flat = np.float32(offset) + np.float32(scale) * uniform(name, math.prod(shape))
    return flat.astype(np.float32).reshape(tuple(shape))


def uniform(name: str, numel: int) -> Floats:
    """Hash a name into `numel` numbers in [-1, 1)."""
    with np.errstate(over="ignore"):
        seed = np.uint64(zlib.crc32(name.encode())) * np.uint64(0x9E3779B97F4A7C15)
        z = seed + np.arange(1, numel + 1, dtype=np.uint64)
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    fraction = (z >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
    return fraction * np.float32(2) - np.float32(1)


def scale_offset(name: str, shape: Sequence[int]) -> tuple[float, float]:
    """Return (scale, offset); the first rule that fits the name counts."""
    fan_in = math.prod(shape[1:])
    rules = [
        (r"running_var$", (0.5, 1.0)),
        (r"running_mean$", (0.1, 0.0)),
        (r"(bn\d|downsample\.1|norm\d?)\.weight$", (0.1, 1.0)),
        (r"latent_output_proj\.weight$", (0.5 * (3 / fan_in) ** 0.5, 0.0)),
        (r"_embed\.weight$", (1.0, 0.0)),
    ]
    for pattern, answer in rules:
        if re.search(pattern, name):
            return answer
    if len(shape) < 2:
        return 0.1, 0.0
    return ((6 if len(shape) == 4 else 3) / fan_in) ** 0.5, 0.0


def sinusoid(n: int, width: int) -> Floats:
    """Return the sinusoid table (n, width): even columns sine, odd columns cosine."""
    position = np.arange(n, dtype=np.float64)[:, None]
    angle = position / np.power(10000.0, 2 * (np.arange(width) // 2) / width)[None]
    table = np.empty((n, width))
    table[:, 0::2] = np.sin(angle[:, 0::2])
    table[:, 1::2] = np.cos(angle[:, 1::2])
    return table.astype(np.float32)
