"""How this process takes memory from the system: it keeps what images need, one after the other."""

import ctypes

# mallopt(3) of glibc. By default an image's pages go back to the system as soon as it is dropped, and come again, page
# by page and set to zero, for the next one: with 480x640 images that costs a fifth of the time of decoding.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES, LARGEST_BYTES = 64 << 20, 32 << 20


def keep_blocks() -> None:
    """Let freed memory of up to KEPT_BYTES stay with the process; without glibc this does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
