"""Bags come down from a real blob service whole, once, and nowhere else; what fails says so without a secret."""

import contextlib
import http.server
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

import pytest
from azure.storage.blob import BlobBlock

from common.command import TransientError, UserError
from stage1_convert import blob, download
from stage1_convert.blob import AHEAD, AzureBags, group
from stage1_convert.download import RemoteFile, check_places
from stage1_convert.source import Source, find_bags
from tests import azurite
from tests.azurite.line import Line
from tests.conftest import ROOT
from tests.stage1_convert.conversion import run, tree
from tests.stage1_convert.recording import cell

BIG = random.Random(0).randbytes(20 << 20)
MARK = b"a place that can be found again"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait hardly at all between attempts."""
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(blob, "FIRST_PAUSE_S", 0.01)


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty bags in folders, and a bare one."""
    folder = tmp_path_factory.mktemp("bags")
    one = cell(seconds=0.1).write(folder / "day 1" / "ü_00")
    for number in range(1, 20):
        shutil.copytree(one, folder / f"day {number % 3}" / f"bag_{number:02d}")
    shutil.copy(one / "ü_00.mcap", folder / "bare.mcap")
    return folder


@pytest.fixture(scope="module")
def prefix(service: azurite.Azurite, bags: Path) -> str:
    """The same below a prefix, among other things; the name of its container is `datasets`."""
    container = service.container("datasets")
    for path in bags.rglob("*"):
        if path.is_file():
            container.upload_blob(f"houston/{path.relative_to(bags).as_posix()}", path.read_bytes())
    for other in ("houston/README.md", "houston/.hidden/x.mcap", "houston2/x.mcap", "houston/day 1/notes.txt"):
        container.upload_blob(other, b"something else")
    return "houston"


def environment(port: int, folder: Path, token: str | None = None) -> dict[str, str]:
    """Return the variables of a user who has a token for reading and listing."""
    return {
        "AZURE_STORAGE_ACCOUNT": azurite.ACCOUNT,
        "AZURE_STORAGE_SAS_TOKEN": token or azurite.sas(),
        "AZURE_STORAGE_BLOB_ENDPOINT": f"http://127.0.0.1:{port}/{azurite.ACCOUNT}",
        "BLOB_DEST_DIR": str(folder),
    }


def bring(port: int, folder: Path, src: str, keep: bool = True) -> list[Source]:
    found = AzureBags(src, keep, environment(port, folder))
    return list(found.fetch(found.offers))


def upload(service: azurite.Azurite, name: str, data: bytes) -> str:
    """Put one bag into a container of its own; returns its address."""
    service.container(name).upload_blob("big.mcap", data, overwrite=True)
    return f"azure://{azurite.ACCOUNT}/{name}/"


def test_a_prefix_of_bags_comes_down_as_it_lies_there(
    service: azurite.Azurite, prefix: str, bags: Path, tmp_path: Path
) -> None:
    sources = bring(service.port, tmp_path / "here", f"azure://{azurite.ACCOUNT}/datasets/{prefix}/")
    assert [source.name for source in sources] == [source.name for source in find_bags(bags)]
    assert find_bags(tmp_path / "here") == sources
    whole = {name: data for name, data in tree(tmp_path / "here").items() if not name.endswith(".etag")}
    assert whole == tree(bags)


def test_what_is_converted_is_deleted_so_that_few_bags_lie_there_at_a_time(
    service: azurite.Azurite, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.mcap").write_bytes(b"my own")
    found = AzureBags(f"azure://{azurite.ACCOUNT}/datasets/{prefix}", False, environment(service.port, tmp_path))
    most = 0
    for source in found.fetch(found.offers):
        most = max(most, sum(1 for _ in tmp_path.rglob("*.mcap")) - 1)
        assert source.path.exists()
        found.release(source)
        assert not source.path.exists()
    assert most <= AHEAD + 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.mcap"]


def test_only_the_bags_that_are_asked_for_come_down(service: azurite.Azurite, prefix: str, tmp_path: Path) -> None:
    found = AzureBags(f"azure://{azurite.ACCOUNT}/datasets/{prefix}", True, environment(service.port, tmp_path))
    assert [source.name for source in found.fetch(found.offers[2:4])] == [offer.name for offer in found.offers[2:4]]
    assert len(find_bags(tmp_path)) == 2
    assert all(offer.size_bytes == sum(file.size for file in offer.bag) > 1000 for offer in found.offers)


@pytest.mark.parametrize(("tail", "name"), [("houston/day 1/ü_00", "ü_00"), ("houston/bare.mcap", "bare.mcap")])
def test_a_single_bag_may_be_the_source(
    service: azurite.Azurite, prefix: str, tmp_path: Path, tail: str, name: str
) -> None:
    url = f"http://127.0.0.1:{service.port}/{azurite.ACCOUNT}/datasets/{quote(tail)}"
    assert [source.name for source in bring(service.port, tmp_path, url)] == [name]
    assert [source.name for source in find_bags(tmp_path)] == [name]


def test_downloads_that_were_kept_are_not_brought_again(service: azurite.Azurite, prefix: str, tmp_path: Path) -> None:
    with Line(service.port) as line:
        address = upload(service, "kept", BIG)
        bring(line.port, tmp_path, address)
        assert line.carried > len(BIG)
        line.carried = 0
        bring(line.port, tmp_path, address)
        assert line.carried < 10_000
        upload(service, "kept", BIG[:-1] + b"!")
        (source,) = bring(line.port, tmp_path, address)
    assert source.path.read_bytes() == BIG[:-1] + b"!"


def test_a_line_that_breaks_again_and_again_delivers_in_the_end(service: azurite.Azurite, tmp_path: Path) -> None:
    with Line(service.port) as line:
        line.cut_after = 3 << 20  # less than a piece
        (source,) = bring(line.port, tmp_path, upload(service, "broken", BIG[: 8 << 20]))
        assert source.path.read_bytes() == BIG[: 8 << 20]


def test_a_service_that_is_down_is_transient_and_names_no_secret(service: azurite.Azurite, tmp_path: Path) -> None:
    with Line(service.port) as line:
        line.cut_after = 0
        with pytest.raises(TransientError, match="no connection to the storage service") as caught:
            bring(line.port, tmp_path, upload(service, "down", b"x"))
    assert not leaks(str(caught.value), environment(0, tmp_path))


CHILD = (
    "from stage1_convert.blob import AzureBags; import sys; b = AzureBags(sys.argv[1], True); list(b.fetch(b.offers))"
)


def test_a_download_that_was_killed_goes_on_where_it_was(service: azurite.Azurite, tmp_path: Path) -> None:
    address = upload(service, "killed", BIG)
    with Line(service.port) as line:
        line.stall_after = 11 << 20
        variables = {**os.environ, **environment(line.port, tmp_path), "PYTHONPATH": str(ROOT)}
        with subprocess.Popen([sys.executable, "-c", CHILD, address], env=variables, cwd=ROOT) as child:
            assert line.stalled.wait(60)
            child.send_signal(signal.SIGKILL)
    assert find_bags_or_none(tmp_path) == []
    (part,) = tmp_path.glob(".big.mcap.*.part")
    assert part.stat().st_size >= 8 << 20
    with Line(service.port) as line:
        (source,) = bring(line.port, tmp_path, address)
        assert line.carried < len(BIG) - (7 << 20)
    assert source.path.read_bytes() == BIG
    assert sorted(path.name for path in tmp_path.iterdir()) == [".big.mcap.etag", "big.mcap"]


def find_bags_or_none(folder: Path) -> list[Source]:
    try:
        return find_bags(folder)
    except UserError:
        return []


def upload_in_blocks(service: azurite.Azurite, name: str, data: bytes) -> str:
    """Put a bag there as large ones are, in blocks: the service gives no MD5 for it."""
    client = service.container(name).get_blob_client("big.mcap")
    for number in range(4):
        client.stage_block(f"{number:04d}", data[number * len(data) // 4 : (number + 1) * len(data) // 4])
    client.commit_block_list([BlobBlock(f"{number:04d}") for number in range(4)])
    assert client.get_blob_properties().content_settings.content_md5 is None
    return f"azure://{azurite.ACCOUNT}/{name}/"


@pytest.mark.parametrize("put", [upload, upload_in_blocks])
def test_a_blob_that_changes_while_it_comes_is_brought_in_one_version(
    service: azurite.Azurite, tmp_path: Path, put: Callable[[azurite.Azurite, str, bytes], str]
) -> None:
    address = put(service, "changed", BIG)
    other = BIG[::-1]
    with Line(service.port) as line:
        seen = threading.Event()

        def rewrite(piece: bytes) -> bytes:
            if line.carried > 6 << 20 and not seen.is_set():
                seen.set()
                put(service, "changed", other)
            return piece

        line.change = rewrite
        (source,) = bring(line.port, tmp_path, address)
    assert seen.is_set()
    assert source.path.read_bytes() == other


@pytest.mark.parametrize("times", [1, 99])
def test_wrong_bytes_are_noticed_and_brought_again_or_refused(
    service: azurite.Azurite, tmp_path: Path, times: int
) -> None:
    data = bytes(1000) + MARK + bytes(1000)
    address = upload(service, "wrong", data)
    done = 0
    with Line(service.port) as line:

        def spoil(piece: bytes) -> bytes:
            nonlocal done
            done += MARK in piece
            return piece.replace(MARK, MARK.upper()) if done <= times else piece

        line.change = spoil
        if times == 1:
            (source,) = bring(line.port, tmp_path, address)
            assert source.path.read_bytes() == data
        else:
            with pytest.raises(UserError, match=r"blob big\.mcap: its \d+ bytes do not have the MD5"):
                bring(line.port, tmp_path, address)
            assert list(tmp_path.iterdir()) == []
    assert done == (2 if times == 1 else 3)


def test_a_file_of_somebody_else_is_neither_overwritten_nor_deleted(service: azurite.Azurite, tmp_path: Path) -> None:
    address = upload(service, "theirs", b"in the cloud")
    (tmp_path / "big.mcap").write_bytes(b"on my disk")
    with pytest.raises(UserError, match=r"big\.mcap stands where the blob big\.mcap would go"):
        bring(service.port, tmp_path, address)
    (tmp_path / "big.mcap").write_bytes(b"in the cloud")
    found = AzureBags(address, False, environment(service.port, tmp_path))
    for source in found.fetch(found.offers):
        found.release(source)
    assert (tmp_path / "big.mcap").read_bytes() == b"in the cloud"


@pytest.mark.parametrize("at", ["folder", "file"])
def test_a_link_in_the_folder_for_downloads_leads_nobody_out(service: azurite.Azurite, tmp_path: Path, at: str) -> None:
    service.container("links").upload_blob("a/b.mcap", b"x" * 100, overwrite=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "outside").mkdir()
    if at == "folder":
        (tmp_path / "here" / "a").symlink_to(tmp_path / "outside")
    else:
        (tmp_path / "here" / "a").mkdir()
        (tmp_path / "here" / "a" / "b.mcap").symlink_to(tmp_path / "outside" / "b.mcap")
    with pytest.raises(UserError, match="is a link"):
        bring(service.port, tmp_path / "here", f"azure://{azurite.ACCOUNT}/links/")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize(
    "place",
    [
        "../x.mcap",
        "a/../../x.mcap",
        "/etc/x.mcap",
        "a//x.mcap",
        "./x.mcap",
        "C:/x.mcap",
        "a\\..\\x.mcap",
        "%2e%2e/x.mcap",
        "a/..%2fx.mcap",
        "a%5cx.mcap",
        "a%00x.mcap",
        "a\0x.mcap",
        "a\nx.mcap",
        "\u202ex.mcap",
        "x" * 300 + ".mcap",
        "y/" * 600 + "x.mcap",
    ],
)
def test_a_name_that_would_leave_the_folder_is_refused_and_shown_escaped(place: str) -> None:
    with pytest.raises(UserError, match="has no name for a file") as caught:
        check_places(["fine.mcap", place])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (["a/X.mcap", "a/x.mcap"], "differ only in case or spelling"),
        (["caf\u00e9.mcap", "cafe\u0301.mcap"], "differ only in case or spelling"),
        (["a.mcap", "a.mcap/b.mcap"], "has the name of a folder"),
    ],
)
def test_names_that_cannot_stand_beside_each_other_are_refused(places: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_places(places)
    for place in places:
        check_places([place])


def test_a_hostile_name_in_a_listing_is_refused() -> None:
    file = RemoteFile("p/../../x.mcap", "../../x.mcap", 3, "e", None)
    with pytest.raises(UserError, match=r"'\.\./\.\./x\.mcap' has no name for a file"):
        group([file])


def test_blobs_become_bags_by_the_rule_for_folders() -> None:
    places = [
        "a/metadata.yaml",
        "a/a_0.db3",
        "a/a_0.db3-wal",
        "a/notes.txt",
        "a/sub/x.mcap",
        "b/x.mcap",
        "b/metadata.yml",
    ]
    places += ["c/metadata.yaml", "c/d/y.db3", "c/d/y.db3-wal", "z.bag"]
    found = group(RemoteFile(f"p/{place}", place, 10, "e", None) for place in places)
    assert [(offer.name, [file.place for file in offer.bag]) for offer in found] == [
        ("a", ["a/a_0.db3", "a/a_0.db3-wal", "a/metadata.yaml"]),
        ("b/x.mcap", ["b/x.mcap"]),
        ("c/d/y.db3", ["c/d/y.db3", "c/d/y.db3-wal"]),
        ("z.bag", ["z.bag"]),
    ]
    assert found[0].size_bytes == 30


def test_a_container_that_is_not_there_is_refused(service: azurite.Azurite, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"azure://devstoreaccount1/nowhere/: there is no such container"):
        bring(service.port, tmp_path, f"azure://{azurite.ACCOUNT}/nowhere/")


def test_a_prefix_without_bags_is_refused(service: azurite.Azurite, prefix: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no bag in azure://devstoreaccount1/datasets/nothing"):
        bring(service.port, tmp_path, f"azure://{azurite.ACCOUNT}/datasets/nothing")


def leaks(text: str, variables: dict[str, str]) -> list[str]:
    """Return the forms of secrets that stand in a text."""
    token = variables.get("AZURE_STORAGE_SAS_TOKEN", "")
    signature = "".join(re.findall("sig=([^&]+)", token))
    secrets = {token, signature, unquote(signature), azurite.KEY, variables.get("AZURE_STORAGE_CONNECTION_STRING", "")}
    ways = (str, quote, quote_plus, unquote, lambda secret: quote(secret, safe=""))
    forms = {way(secret) for secret in secrets if secret for way in ways}
    return [form for form in forms if form.lower() in text.lower()]


class Rogue(http.server.BaseHTTPRequestHandler):
    """A service that answers everything with one status, and sends people elsewhere when that is a redirect."""

    status, elsewhere, asked = 500, "", 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(self.status)
        if self.elsewhere:
            self.send_header("Location", self.elsewhere + self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def rogue(answer: int, location: str = "") -> Iterator[tuple[type[Rogue], int]]:
    class Answer(Rogue):
        status, elsewhere, asked = answer, location, 0

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Answer, server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, UserError, "refuses the credentials"),
        (403, UserError, "refuses the credentials"),
        (404, UserError, "no such container"),
        (400, UserError, "refuses it"),
        (429, TransientError, "the storage service failed"),
        (503, TransientError, "the storage service failed"),
    ],
)
def test_an_answer_of_the_service_is_an_error_of_the_right_kind(
    tmp_path: Path, status: int, kind: type[Exception], words: str
) -> None:
    with rogue(status) as (answers, port):
        variables = environment(port, tmp_path)
        with pytest.raises(kind, match=words) as caught:
            AzureBags(f"azure://{azurite.ACCOUNT}/c/", True, variables)
    assert leaks(str(caught.value), variables) == []
    assert answers.asked == (1 if kind is UserError else download.ATTEMPTS)


def test_a_redirect_to_a_stranger_is_not_followed(tmp_path: Path) -> None:
    with rogue(200) as (stranger, elsewhere), rogue(302, f"http://127.0.0.1:{elsewhere}") as (_, port):
        with pytest.raises(UserError, match="refuses it"):
            AzureBags(f"azure://{azurite.ACCOUNT}/c/", True, environment(port, tmp_path))
        assert stranger.asked == 0


LOUD = """
import logging, sys, threading
from common.command import UserError, TransientError, run, set_up_logging
def main(argv):
    set_up_logging(logging.DEBUG)
    for name in ("azure", "urllib3"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    from stage1_convert.blob import AzureBags
    from stage1_convert import blob, download
    blob.FIRST_PAUSE_S = download.FIRST_PAUSE_S = 0.01
    import os, urllib.parse
    secret = os.environ.get("AZURE_STORAGE_SAS_TOKEN") or os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    logging.getLogger("ours").debug("the secret is %s or %s", secret, urllib.parse.quote(secret))
    try:
        list((b := AzureBags(sys.argv[1], True)).fetch(b.offers))
    finally:
        thread = threading.Thread(target=lambda: 1 / 0, name=secret)
        thread.start(); thread.join()
        if "crash" in sys.argv: raise RuntimeError(secret + " " + urllib.parse.unquote(secret))
    return 0
run(main)
"""


@pytest.mark.parametrize("credential", ["token", "expired token", "connection string", "wrong connection string"])
@pytest.mark.parametrize("end", ["fine", "crash", "cut", "absent"])
def test_no_secret_is_printed_even_at_debug(
    service: azurite.Azurite, prefix: str, tmp_path: Path, credential: str, end: str
) -> None:
    if (end in ("cut", "absent")) != (credential == "token") and "wrong" not in credential:
        pytest.skip("tried with the other credential")
    with Line(service.port) as line:
        variables = environment(line.port, tmp_path, azurite.sas("expired" not in credential))
        if "connection" in credential:
            del variables["AZURE_STORAGE_SAS_TOKEN"]
            text = service.connection_string.replace(f":{service.port}/", f":{line.port}/")
            variables["AZURE_STORAGE_CONNECTION_STRING"] = (
                text.replace("=Eby8", "=Xby8") if "wrong" in credential else text
            )
        line.cut_after = 0 if end == "cut" else None
        address = f"azure://{azurite.ACCOUNT}/{'nowhere' if end == 'absent' else 'datasets'}/{prefix}/bare.mcap"
        command = [sys.executable, "-c", LOUD, address, end]
        done = subprocess.run(
            command,
            env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    said = done.stdout + done.stderr
    assert leaks(said, variables) == []
    assert "the secret is ***" in said
    assert "ZeroDivisionError" in said
    if "token" in credential and end != "cut":
        assert re.search(r'"GET /devstoreaccount1/\S*\*\*\*\S* HTTP/1.1" \d\d\d', said)  # urllib3 tells all it knows
    refused = credential in ("expired token", "wrong connection string") and end == "fine"
    assert done.returncode == (1 if end == "crash" else 75 if end == "cut" else 2 if refused or end == "absent" else 0)
    if refused:
        assert "refuses the credentials (403 AuthorizationFailure)" in said
        assert "AZURE_STORAGE_SAS_TOKEN" in said


def test_twenty_bags_are_converted_from_a_prefix_like_from_a_folder_on_a_small_disk(
    service: azurite.Azurite, tmp_path: Path
) -> None:
    for number in range(20):
        cell(seconds=0.7, seed=number).write(tmp_path / "local" / f"bag_{number:02d}")
    container = service.container("twenty")
    for path in (tmp_path / "local").rglob("*.*"):
        container.upload_blob(path.relative_to(tmp_path / "local").as_posix(), path.read_bytes())
    run(tmp_path / "local", tmp_path / "from folder")
    with Line(service.port) as line:
        line.cut_after = 1 << 20
        variables = {**os.environ, **environment(line.port, tmp_path / "here"), "AZURE_BLOB_CONTAINER": "twenty"}
        flags = ["--src", "azure", "--out", str(tmp_path / "from blobs"), "--workers", "1", "--keep-downloads", "false"]
        done = subprocess.run(
            [sys.executable, "-m", "stage1_convert", *flags],
            env={**variables, "AZURE_BLOB_PREFIX": "", "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert leaks(done.stdout + done.stderr, variables) == []
    assert tree(tmp_path / "from blobs") == tree(tmp_path / "from folder")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_signature_in_the_address_is_refused_and_the_variables_are_named(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AZURE_")}
    done = subprocess.run(
        [sys.executable, "-m", "stage1_convert", "--src", "azure://acct/c?sig=hunter2", "--out", str(tmp_path / "out")],
        env={**variables, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "AZURE_STORAGE_SAS_TOKEN with AZURE_STORAGE_ACCOUNT" in done.stderr
    assert "hunter2" not in done.stderr
