"""Bags are downloaded from a blob service once, and one that cannot be downloaded does not stop the others."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from common.cli.command import STOPPED, TransientError, UserError
from common.cli.config import load
from stage1_convert.config import Config
from stage1_convert.pipeline.convert import Options, RefusedError, Summary, convert
from stage1_convert.sources.azure import AHEAD, CHECKSUMS, AzureBags, group_bags
from stage1_convert.sources.azure_client import ATTEMPTS, Blob
from stage1_convert.sources.folder import LocalBags, find_bags
from tests import azurite
from tests.azurite import environment
from tests.azurite.gate import Answer, Gate, Stall
from tests.azurite.transfer import download, upload
from tests.conftest import ROOT
from tests.stage1_convert.conversion import report, run, tree
from tests.stage1_convert.recording import cell

BIG = random.Random(0).randbytes(5 << 20)
pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty bag folders, and a storage file by itself."""
    folder = tmp_path_factory.mktemp("bags")
    bag = cell(seconds=0.1).write(folder / "day 1" / "ü_00")
    for number in range(1, 20):
        shutil.copytree(bag, folder / f"day {number % 3}" / f"bag_{number:02d}")
    shutil.copy(bag / "ü_00.mcap", folder / "bare.mcap")
    return folder


@pytest.fixture(scope="module")
def prefix(service: azurite.Azurite, bags: Path) -> str:
    """The same bags below a prefix of the container `datasets`, among other blobs."""
    container = service.container("datasets")
    for path in bags.rglob("*"):
        if path.is_file():
            container.upload_blob(f"houston/{path.relative_to(bags).as_posix()}", path.read_bytes())
    for other in ("houston/README.md", "houston/.hidden/x.mcap", "houston2/x.mcap", "houston/day 1/notes.txt"):
        container.upload_blob(other, b"something else")
    return "houston"


def test_a_prefix_of_bags_is_downloaded_unchanged(
    service: azurite.Azurite, prefix: str, bags: Path, tmp_path: Path
) -> None:
    sources = download(service.port, tmp_path / "here", f"azure://{azurite.ACCOUNT}/datasets/{prefix}/")
    assert [source.name for source in sources] == [source.name for source in find_bags(bags)]
    assert find_bags(tmp_path / "here") == sources
    whole = {name: data for name, data in tree(tmp_path / "here").items() if not name.endswith(".etag")}
    assert whole == tree(bags)


def test_what_a_kill_left_half_written_is_removed(service: azurite.Azurite, prefix: str, tmp_path: Path) -> None:
    stale = tmp_path / "ü_00" / ".tmp-metadata.yaml-4194305"  # of a process that cannot be
    stale.parent.mkdir()
    stale.write_bytes(b"0x")
    download(service.port, tmp_path, f"azure://{azurite.ACCOUNT}/datasets/{prefix}/day 1/ü_00")
    assert not stale.exists()


def test_bags_are_deleted_after_their_conversion_so_that_the_disk_holds_few_at_a_time(
    service: azurite.Azurite, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.mcap").write_bytes(b"my own")
    found = AzureBags(f"azure://{azurite.ACCOUNT}/datasets/{prefix}", False, environment(service.port, tmp_path))
    most = 0
    for source, *_ in found.fetch(found.bags):
        most = max(most, sum(1 for _ in tmp_path.rglob("*.mcap")) - 1)
        assert source.path.is_file() or tree(source.path)
        found.release(source, None)
        assert not source.path.is_file()
        assert not tree(source.path)
    assert most <= AHEAD + 1
    assert list(tree(tmp_path)) == ["mine.mcap"]


def test_only_the_bags_that_are_asked_for_are_downloaded(
    service: azurite.Azurite, prefix: str, bags: Path, tmp_path: Path
) -> None:
    found = AzureBags(f"azure://{azurite.ACCOUNT}/datasets/{prefix}", True, environment(service.port, tmp_path))
    fetched = [bag.source.name for bag in found.fetch(found.bags[2:4])]
    assert fetched == [bag.name for bag in found.bags[2:4]]
    assert len(find_bags(tmp_path)) == 2
    assert found.bags == LocalBags(bags).bags


@pytest.mark.parametrize(("tail", "name"), [("houston/day 1/ü_00", "ü_00"), ("houston/bare.mcap", "bare.mcap")])
def test_a_single_bag_may_be_the_source(
    service: azurite.Azurite, prefix: str, tmp_path: Path, tail: str, name: str
) -> None:
    url = f"http://127.0.0.1:{service.port}/{azurite.ACCOUNT}/datasets/{quote(tail)}"
    assert [source.name for source in download(service.port, tmp_path, url)] == [name]
    assert [source.name for source in find_bags(tmp_path)] == [name]


def test_another_version_of_a_kept_download_takes_its_place(service: azurite.Azurite, tmp_path: Path) -> None:
    for content in (BIG, BIG[:-1] + b"!"):
        (source,) = download(service.port, tmp_path, upload(service, "kept", content))
        assert source.path.read_bytes() == content


def test_blobs_are_grouped_into_bags_by_the_rule_for_folders() -> None:
    paths = [
        "a/metadata.yaml",
        "a/a_0.db3",
        "a/a_0.db3-wal",
        "a/notes.txt",
        "a/sub/x.mcap",
        "b/x.mcap",
        "b/metadata.yml",
    ]
    paths += ["c/metadata.yaml", "c/d/y.db3", "c/d/y.db3-wal", "z.bag"]
    found = group_bags(Blob(f"p/{path}", path, 10, "e", None) for path in paths)
    assert [(name, [blob.path for blob in blobs]) for name, blobs in found.items()] == [
        ("a", ["a/a_0.db3", "a/a_0.db3-wal", "a/metadata.yaml"]),
        ("b/x.mcap", ["b/x.mcap"]),
        ("c/d/y.db3", ["c/d/y.db3", "c/d/y.db3-wal"]),
        ("z.bag", ["z.bag"]),
    ]


def test_a_prefix_without_bags_is_refused(service: azurite.Azurite, prefix: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no bag in azure://devstoreaccount1/datasets/nothing"):
        download(service.port, tmp_path, f"azure://{azurite.ACCOUNT}/datasets/nothing")


def test_a_file_of_somebody_else_is_neither_overwritten_nor_deleted(service: azurite.Azurite, tmp_path: Path) -> None:
    address = upload(service, "theirs", b"in the cloud")
    (tmp_path / "big.mcap").write_bytes(b"on my disk")
    with pytest.raises(UserError, match=r"big\.mcap stands where the blob big\.mcap would go"):
        download(service.port, tmp_path, address)
    (tmp_path / "big.mcap").write_bytes(b"in the cloud")
    found = AzureBags(address, False, environment(service.port, tmp_path))
    for bag in found.fetch(found.bags):
        found.release(bag.source, None)
    assert (tmp_path / "big.mcap").read_bytes() == b"in the cloud"


@pytest.mark.parametrize(
    ("status", "kind", "words", "attempts"),
    [
        (401, UserError, "refuses the credentials", 1),
        (403, UserError, "refuses the credentials", 1),
        (404, UserError, "no such container", 1),
        (400, UserError, "refuses it", 1),
        (429, TransientError, "the storage service failed", 1),
        (503, TransientError, "the storage service failed", ATTEMPTS),
    ],
)
def test_an_error_of_the_service_has_the_right_exception_type(
    tmp_path: Path, status: int, kind: type[Exception], words: str, attempts: int
) -> None:
    with Gate(alter=lambda method, path, answer: Answer(status, {}, b"")) as gate:
        with pytest.raises(kind, match=words):
            AzureBags(f"azure://{azurite.ACCOUNT}/c/", True, environment(gate.port, tmp_path))
        assert len(gate.asked) == attempts


CONVERT = """
from common.cli.command import run
from stage1_convert.__main__ import main
from stage1_convert.sources import azure_client
azure_client.TIMEOUT_S, azure_client.BACKOFF_S, azure_client.BACKOFF_BASE = 3.0, 0, 0
run(main)
"""


def started(variables: dict[str, str], *flags: str) -> "subprocess.Popen[str]":
    """Start a conversion in a process group of its own, which does not wait between attempts."""
    return subprocess.Popen(
        [sys.executable, "-c", CONVERT, "--src", "azure", *flags],
        env={**os.environ, **variables, "PYTHONPATH": str(ROOT), "AZURE_BLOB_PREFIX": ""},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def put(service: azurite.Azurite, name: str, folder: Path) -> str:
    """Put all bags below a folder into a container of that name; returns its address."""
    container = service.container(name)
    for path in folder.rglob("*.*"):
        container.upload_blob(path.relative_to(folder).as_posix(), path.read_bytes(), overwrite=True)
    return f"azure://{azurite.ACCOUNT}/{name}"


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.*"))


def bags_in(gate: Gate) -> set[str]:
    """Return the bags whose blobs were requested."""
    return {one.path.partition("?")[0].split("/")[3] for one in gate.asked if "comp=list" not in one.path}


def test_ctrl_c_stops_a_download_and_the_same_command_completes_it(service: azurite.Azurite, tmp_path: Path) -> None:
    recording = cell(seconds=0.8)
    recording.write(tmp_path / "local" / "bag")
    with (tmp_path / "local" / "bag" / "bag.mcap").open("ab") as file:
        file.write(bytes(6 << 20))  # what follows the end of a recording is no part of it
    put(service, "interrupted", tmp_path / "local")
    flags = ["--out", str(tmp_path / "out"), "--workers", "1"]
    stall = Stall(5 << 20)
    with Gate(service.port, stall) as gate:
        variables = environment(gate.port, tmp_path / "here") | {"AZURE_BLOB_CONTAINER": "interrupted"}
        with started(variables, *flags) as child:
            assert stall.reached.wait(60)
            child.send_signal(signal.SIGINT)
            said = child.communicate(timeout=60)[0]
    assert child.returncode == 130
    assert said.strip().splitlines()[-1] == STOPPED
    assert sorted(path.name for path in (tmp_path / "here" / "bag").iterdir()) == []
    variables = environment(service.port, tmp_path / "here") | {"AZURE_BLOB_CONTAINER": "interrupted"}
    with started(variables, *flags) as child:
        said = child.communicate(timeout=120)[0]
    assert child.returncode == 0, said


def converted(src: str, gate: Gate, folder: Path, out: Path, strict: bool = False) -> Summary:
    """Convert blobs in this process, deleting downloads."""
    supply = AzureBags(src, False, environment(gate.port, folder))
    return convert(supply, out, load(Config, None, []), Options(0, strict))


def test_a_rerun_downloads_only_what_is_new_or_changed(service: azurite.Azurite, tmp_path: Path) -> None:
    local, here, out = tmp_path / "local", tmp_path / "here", tmp_path / "out"
    for number in range(3):
        cell(seconds=0.8, seed=number).write(local / f"bag_{number}")
    src = put(service, "rerun", local)
    with Gate(service.port) as gate:
        assert converted(src, gate, here, out).reused == 0
        assert gate.carried == size_of(local)
        first = tree(out)

        gate.asked.clear()
        assert converted(src, gate, here, out).reused == 3
        assert gate.carried == 0
        assert tree(out) == first

        gate.asked.clear()
        changed = cell(seconds=0.9, seed=9)
        shutil.rmtree(local / "bag_1")
        changed.write(local / "bag_1")
        cell(seconds=0.8, seed=7).write(local / "bag_0b")
        container = service.container("rerun")
        for path in [*(local / "bag_1").iterdir(), *(local / "bag_0b").iterdir()]:
            container.upload_blob(path.relative_to(local).as_posix(), path.read_bytes(), overwrite=True)
        assert converted(src, gate, here, out).reused == 2
        assert gate.carried == size_of(local / "bag_1") + size_of(local / "bag_0b")
        run(local, tmp_path / "from scratch")
        assert tree(out) == tree(tmp_path / "from scratch")

        gate.asked.clear()  # neither a part that is gone nor memory that was cut off is trusted
        next(out.glob("data/*/file-001.parquet")).unlink()
        assert converted(src, gate, here, out).reused == 3
        assert bags_in(gate) == {"bag_0b"}
        (here / CHECKSUMS).write_bytes((here / CHECKSUMS).read_bytes()[:-40])
        assert converted(src, gate, here, out).reused == 4
        assert bags_in(gate) == {"bag_0", "bag_0b", "bag_1", "bag_2"}
        assert tree(out) == tree(tmp_path / "from scratch")


@pytest.fixture(scope="module")
def three(service: azurite.Azurite, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three bags in a container."""
    local = tmp_path_factory.mktemp("three")
    for number in range(3):
        cell(seconds=0.8, seed=number).write(local / f"bag_{number}")
    return put(service, "three", local)


FAULTS: dict[str, tuple[Callable[[Answer], Answer], str]] = {
    "gone": (
        lambda _: Answer(404, {"x-ms-error-code": "BlobNotFound"}, b""),
        "there is no such container or blob (404 BlobNotFound)",
    ),
    "archived": (
        lambda _: Answer(409, {"x-ms-error-code": "BlobArchived"}, b""),
        "the storage service refuses it (409 BlobArchived)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_blob_that_cannot_be_downloaded_refuses_its_bag_and_no_other(
    service: azurite.Azurite, three: str, tmp_path: Path, fault: str
) -> None:
    spoil, words = FAULTS[fault]

    def alter(method: str, path: str, answer: Answer) -> Answer:
        return spoil(answer) if "bag_1.mcap" in path else answer

    with Gate(service.port, alter) as gate:
        summary = converted(three, gate, tmp_path / "here", tmp_path / "out")
        assert [(bag, words in reason) for bag, reason in summary.refused] == [("bag_1", True)]
        assert [(bag["bag"], bag["status"]) for bag in report(tmp_path / "out")["bags"]] == [
            ("bag_0", "converted"),
            ("bag_1", "refused"),
            ("bag_2", "converted"),
        ]
        with pytest.raises(RefusedError, match="1 of 3 bags are refused and --strict is given"):
            converted(three, gate, tmp_path / "here", tmp_path / "strict", strict=True)
        gate.alter = lambda method, path, answer: answer
        gate.asked.clear()
        assert converted(three, gate, tmp_path / "here", tmp_path / "out").refused == []
        assert not [
            one for one in gate.asked if "bag_0" in one.path or "bag_2" in one.path
        ]  # only what is missing came


def test_credentials_that_may_not_read_a_blob_end_the_run_and_the_next_one_continues(
    service: azurite.Azurite, three: str, tmp_path: Path
) -> None:
    denied = Answer(403, {"x-ms-error-code": "AuthorizationPermissionMismatch"}, b"")
    with Gate(service.port, lambda method, path, answer: denied if "bag_1.mcap" in path else answer) as gate:
        with pytest.raises(
            UserError, match=r"bag_1\.mcap: .* \(403 AuthorizationPermissionMismatch\).* leave bag \S*bag_1\S* out"
        ) as caught:
            converted(three, gate, tmp_path / "here", tmp_path / "out")
        assert not isinstance(caught.value, RefusedError)
        assert not (tmp_path / "out").exists()
        gate.alter = lambda method, path, answer: answer
        gate.asked.clear()
        assert converted(three, gate, tmp_path / "here", tmp_path / "out").refused == []
        assert "bag_0" not in bags_in(gate)
