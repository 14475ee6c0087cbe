"""A folder in; the network file system that it lies on, if it does, out: where renames, locks and flushes may mean less."""

import re
from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mountinfo")  # proc_pid_mountinfo(5)
# Not here: Lustre, Ceph, GPFS and other cluster file systems, which keep POSIX's word; fuseblk, which is a local disk.
_NETWORK = re.compile(r"nfs4?|cifs|smb3|smbfs|afs|9p|ncpfs|vboxsf|fuse(\..+)?")
_LOCAL = {"fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.ext2", "fuse.bindfs"}
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """Where a file system is mounted, its kind (such as nfs4), and its source (such as server:/export)."""

    place: str
    kind: str
    source: str


def network_mount(path: Path, mounts: Path = MOUNTS) -> Mount | None:
    """Return the mount that holds `path` when it is a network's, None when it is not or nobody says."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:  # another system than Linux
        return None
    found = [mount for mount in map(_mount, lines) if mount and path.resolve().is_relative_to(mount.place)]
    if not found:
        return None
    holder = max(
        reversed(found), key=lambda mount: len(mount.place)
    )  # of several on one place the last hides the others
    return holder if _NETWORK.fullmatch(holder.kind) and holder.kind not in _LOCAL else None


def _mount(line: str) -> Mount | None:
    """Parse `36 35 98:0 /root /place options optional... - kind source options`."""
    before, dash, after = line.partition(" - ")
    head, tail = before.split(), after.split()
    if not dash or len(head) < 5 or len(tail) < 2:
        return None
    return Mount(_plain(head[4]), tail[0], _plain(tail[1]))


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)  # a space in a path is \040
