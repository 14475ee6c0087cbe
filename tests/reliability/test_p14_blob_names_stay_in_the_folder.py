"""Whatever a blob is called, nothing is written outside the folder for downloads: it is refused, its name escaped."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pytest

from common.cli.command import UserError
from stage1_convert.sources.azure import CHECKSUMS, AzureBags, group_bags
from stage1_convert.sources.azure_client import Blob
from tests import azurite
from tests.azurite.gate import Answer, Gate
from tests.azurite.transfer import download
from tests.reliability.harness import hashes
from tests.stage1_convert.conversion import tree

pytestmark = pytest.mark.usefixtures("impatient")

LEAVING = [
    "../x.mcap", "a/../../x.mcap", "..", "/etc/x.mcap", "a//x.mcap", "./x.mcap",
    "C:/x.mcap", "a\\..\\x.mcap", "\\\\host\\share\\x.mcap",
    "%2e%2e/x.mcap", "a/%2e%2e%2fx.mcap", "%2fetc%2fx.mcap", "a%5cx.mcap", "a%00x.mcap",
    "a\0x.mcap", "a\nx.mcap", "a\x1b[2Jx.mcap", "\u202ex.mcap",
    "ü" * 125 + ".mcap",  # 255 bytes, and our own names beside it are longer
    "y/" * 600 + "x.mcap",
]  # fmt: skip
HIDDEN = ["..\\x.mcap", ".hidden/../../x.mcap", "..%5c..%5cx.mcap"]  # no bags anywhere: they begin with a dot
COLLIDING = [
    (["a/X.mcap", "a/x.mcap"], "differ only in case or spelling"),
    (["stra\u00dfe.mcap", "STRASSE.mcap"], "differ only in case or spelling"),
    (["caf\u00e9.mcap", "cafe\u0301.mcap"], "differ only in case or spelling"),
    (["a.mcap", "a.mcap/b.mcap"], "has the name of a folder"),
]


def listing(names: Sequence[str]) -> bytes:
    """Return what a service says that holds blobs of these names; those that XML cannot carry are encoded."""
    blobs = "".join(
        f'<Blob><Name Encoded="true">{quote(name, safe="/")}</Name><Properties><Etag>0x1</Etag>'
        "<Content-Length>4</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>"
        for name in names
    )
    return f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>".encode()


def storage(names: Sequence[str]) -> Gate:
    """Return a service that lists blobs of these names and gives the same four bytes for every one."""

    def answer(method: str, path: str, answer: Answer) -> Answer:
        if "comp=list" in path:
            return Answer(200, {"Content-Type": "application/xml"}, listing(names))
        headers = {"ETag": "0x1", "Content-Range": "bytes 0-3/4", "x-ms-blob-type": "BlockBlob"}
        return Answer(206, headers, b"evil")

    return Gate(alter=answer)


def fetch(names: Sequence[str], folder: Path) -> None:
    """Download all that such a service lists."""
    with storage(names) as gate:
        found = AzureBags(f"azure://{azurite.ACCOUNT}/c/", True, azurite.environment(gate.port, folder))
        list(found.fetch(found.bags))


def test_names_that_are_fit_are_taken_and_hidden_ones_passed_over(tmp_path: Path) -> None:
    fetch(["a/ü 1%.mcap", "b.mcap", *HIDDEN], tmp_path / "here")
    files = {name: data for name, data in tree(tmp_path).items() if not name.endswith(".etag")}
    assert files == {"here/a/ü 1%.mcap": b"evil", "here/b.mcap": b"evil"}


@pytest.mark.parametrize("name", LEAVING)
def test_a_name_that_would_leave_the_folder_is_refused_and_shown_escaped(name: str, tmp_path: Path) -> None:
    name = name if name.endswith(".mcap") else f"{name}/x.mcap"
    with pytest.raises(UserError, match=r"has no name for a file: it holds .*; rename or remove it") as caught:
        fetch(["fine.mcap", name], tmp_path / "deep" / "here")
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(("names", "words"), COLLIDING)
def test_names_that_cannot_stand_beside_each_other_are_refused(names: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        fetch(names, tmp_path / "here")
    assert str(caught.value).isascii()
    assert tree(tmp_path) == {}
    for number, name in enumerate(names):
        fetch([name], tmp_path / f"alone{number}")
    assert sum(path.endswith(".mcap") for path in tree(tmp_path)) == len(names)


def test_a_name_that_leaves_a_prefix_is_refused_too() -> None:
    with pytest.raises(UserError, match=re.escape("'../../x.mcap' has no name for a file")):
        group_bags([Blob("p/../../x.mcap", "../../x.mcap", 3, "e", None)])


@pytest.mark.parametrize("link", ["folder", "file"])
def test_a_link_in_the_download_folder_is_not_followed(service: azurite.Azurite, tmp_path: Path, link: str) -> None:
    service.container("links").upload_blob("a/b.mcap", b"x" * 100, overwrite=True)
    here, outside = tmp_path / "here", tmp_path / "outside"
    (here if link == "folder" else here / "a").mkdir(parents=True)
    outside.mkdir()
    for name in ("mine", ".tmp-mine-4194305"):  # one looks like a leftover of ours
        (outside / name).write_bytes(b"mine")
    before = hashes(outside)
    address = f"azure://{azurite.ACCOUNT}/links/"
    if link == "folder":
        (here / "a").symlink_to(outside)
    else:
        (here / "a" / "b.mcap").symlink_to(outside / "b.mcap")
    with pytest.raises(UserError, match="is a link, and downloads do not follow links"):
        download(service.port, here, address)
    assert hashes(outside) == before


def test_what_is_remembered_of_downloads_is_not_written_through_a_link(
    service: azurite.Azurite, tmp_path: Path
) -> None:
    service.container("remembered").upload_blob("b.mcap", b"x" * 100, overwrite=True)
    here, outside = tmp_path / "here", tmp_path / "outside"
    here.mkdir()
    outside.write_bytes(b"mine")
    (here / CHECKSUMS).symlink_to(outside)
    found = AzureBags(f"azure://{azurite.ACCOUNT}/remembered/", True, azurite.environment(service.port, here))
    for bag in found.fetch(found.bags):
        found.release(bag.source, {"b.mcap": "0" * 64})
    found.close()
    assert b"0" * 64 in (here / CHECKSUMS).read_bytes()
    assert outside.read_bytes() == b"mine"


def test_a_download_folder_that_is_itself_a_link_is_used(service: azurite.Azurite, tmp_path: Path) -> None:
    service.container("chosen").upload_blob("b.mcap", b"x" * 100, overwrite=True)
    (tmp_path / "disk").mkdir()
    (tmp_path / "here").symlink_to(tmp_path / "disk")
    (source,) = download(service.port, tmp_path / "here", f"azure://{azurite.ACCOUNT}/chosen/")
    assert source.path == tmp_path / "disk" / "b.mcap"
