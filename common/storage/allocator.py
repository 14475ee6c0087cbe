"""The C library's allocator."""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
MOST_BYTES = 2**31 - 1


def keep_freed_memory(limit_bytes: int | None = None) -> None:
    """Let the C library keep freed memory for what comes next, to map and clear which again costs more than many a copy.

    Pieces of more than `limit_bytes`, which is at most 32 MiB, are returned all the same, and so is more than that together.
    """
    with contextlib.suppress(OSError, AttributeError):  # other C libraries than glibc have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        if limit_bytes is None:
            mallopt(M_MMAP_MAX, 0)
        else:
            mallopt(M_MMAP_THRESHOLD, limit_bytes)
        mallopt(M_TRIM_THRESHOLD, MOST_BYTES if limit_bytes is None else limit_bytes)
