"""A network file system is recognized by the kernel's own table and said once; a local disk is not."""

import logging
from pathlib import Path

import pytest

from common.storage.files import locked, sync
from common.storage.mounts import network_mount

TABLE = r"""
22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:22 / /proc rw,relatime - proc proc rw
40 22 0:40 / /mnt/nas rw,relatime shared:9 master:2 - nfs4 server:/export/a\040b rw,vers=4.2
41 22 0:41 / /mnt/nas/local rw,relatime - ext4 /dev/sdb1 rw
42 22 0:42 / /mnt/with\040space rw - cifs //box/share rw
43 22 0:43 / /blob rw - fuse.blobfuse2 blobfuse2 rw
44 22 0:44 / /usb rw - fuseblk /dev/sdc1 rw
45 22 0:45 / /scratch rw - lustre mds@tcp:/scratch rw
46 22 0:46 / /twice rw - nfs server:/old rw
47 46 0:47 / /twice rw - xfs /dev/sdd1 rw
48 22 0:48 / /wsl rw - 9p C:\134 rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/x", None),
        ("/mnt/nas", "nfs4"),
        ("/mnt/nas/run/out", "nfs4"),
        ("/mnt/nasty", None),
        ("/mnt/nas/local/out", None),
        ("/mnt/with space/out", "cifs"),
        ("/blob/out", "fuse.blobfuse2"),
        ("/usb/out", None),
        ("/scratch/out", None),
        ("/twice/out", None),
        ("/wsl/out", "9p"),
    ],
)
def test_the_mount_that_holds_a_path_decides(path: str, kind: str | None, tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(TABLE)
    found = network_mount(Path(path), tmp_path / "mountinfo")
    assert (found.kind if found else None) == kind
    if kind == "nfs4":
        assert found == ("/mnt/nas", "nfs4", "server:/export/a b")


def test_this_machine_has_a_table_and_a_machine_without_one_says_nothing(tmp_path: Path) -> None:
    assert network_mount(Path("/proc")) is None
    assert network_mount(tmp_path, tmp_path / "none") is None


def test_a_lock_on_a_network_file_system_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(f"40 22 0:40 / {tmp_path} rw - nfs4 server:/export rw\n")
    monkeypatch.setattr("common.storage.mounts.network_mount.__defaults__", (table,))
    with caplog.at_level(logging.WARNING):
        for name in ("one", "two"):
            with locked(tmp_path / name):
                pass
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{tmp_path} is nfs4 from server:/export: results there are only as safe as")


def test_a_file_system_that_cannot_flush_is_said_once_and_not_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            sync(Path("/proc/self/status"))  # of a file system without fsync: EINVAL
    assert [record.getMessage() for record in caplog.records] == [
        "the file system of /proc/self cannot flush (Invalid argument): a power cut may lose what was just written"
    ]
