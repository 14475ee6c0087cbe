"""A bag's size in; what a process that reads it may take out: whatever takes more is damaged, or made to."""

from common.storage.worker import Limits

SLOWEST_BYTES_PER_S = 50_000  # of a bag, on a busy machine: what takes longer hangs


def limits_for(size_bytes: int) -> Limits:
    """Return the limits for reading so much of a bag."""
    return Limits((2 << 30) + 4 * size_bytes, 120 + size_bytes / SLOWEST_BYTES_PER_S)
