"""A credential is taken as it was pasted where that is clear, and what is odd about it is said without repeating it."""

import re
import threading
from pathlib import Path

import pytest

from common.cli.command import UserError
from stage1_convert.sources.azure import AzureBags
from stage1_convert.sources.azure_client import Address, open_container, parse_address
from stage1_convert.sources.azure_sas import describe_oddities, token_of
from tests import azurite
from tests.azurite.gate import Answer, Gate
from tests.azurite.transfer import upload

pytestmark = pytest.mark.usefixtures("impatient")
SIGNATURE = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U%3D"  # 32 bytes
TOKEN = f"sv=2022-11-02&sr=c&sp=rl&se=2099-01-01T00%3A00%3A00Z&sig={SIGNATURE}"
URL = "https://acct.blob.core.windows.net/datasets/day%231"

PASTED = [
    "{}",
    "?{}",
    "'{}'",
    '"?{}"\n',
    "  {}\r\n",
    "\u201c{}\u201d",
    URL + "?{}",
    f'"{URL}?' + '{}"\n',
]


@pytest.mark.parametrize("pasted", PASTED)
def test_a_token_is_taken_out_of_what_it_was_pasted_with(pasted: str) -> None:
    assert token_of({"AZURE_STORAGE_SAS_TOKEN": pasted.format(TOKEN)}) == TOKEN


def test_a_token_that_a_mail_program_wrapped_is_one_line() -> None:
    assert token_of({"AZURE_STORAGE_SAS_TOKEN": f"{TOKEN[:40]}\n{TOKEN[40:]}"}) == TOKEN


@pytest.mark.parametrize("pasted", ["'{}'\n", "?{}", "https://elsewhere.example/c?{}"])
def test_a_pasted_token_opens_the_container(service: azurite.Azurite, tmp_path: Path, pasted: str) -> None:
    address = upload(service, "pasted", b"a bag")
    variables = azurite.environment(service.port, tmp_path, pasted.format(azurite.sas()))
    assert [bag.name for bag in AzureBags(address, True, variables).bags] == ["big.mcap"]


def test_the_account_of_a_pasted_url_is_that_of_the_token() -> None:
    pasted = {"AZURE_STORAGE_SAS_TOKEN": f"{URL}?{TOKEN}"}
    assert parse_address("azure:///c/p", pasted).account == "acct"
    with pytest.raises(UserError, match="the credentials are those of acct"):
        parse_address("azure://other/c", pasted)
    with pytest.raises(UserError, match="AZURE_STORAGE_SAS_TOKEN is of the account acct"):
        parse_address("azure", {**pasted, "AZURE_STORAGE_ACCOUNT": "other"})


@pytest.mark.parametrize("folder", ["day#1", "day%231", "100%", "a b+c"])
def test_a_url_is_decoded_exactly_once(service: azurite.Azurite, tmp_path: Path, folder: str) -> None:
    container = service.container("encoded")
    for name in ("day#1", "day%231", "100%", "a b+c", "day"):
        container.upload_blob(f"{name}/{len(name)}.mcap", name.encode(), overwrite=True)
    url = container.get_blob_client(folder).url.partition("?")[0]
    bags = AzureBags(url, True, azurite.environment(service.port, tmp_path))
    (fetched,) = bags.fetch(bags.bags)
    assert fetched.source.path.read_bytes() == folder.encode()
    assert parse_address(f"https://acct.blob.core.windows.net/c/{url.rpartition('/')[2]}", {}).prefix == folder


@pytest.mark.parametrize(
    ("variable", "prefix"),
    [
        ("AZURE_STORAGE_SAS_TOKEN", "?"),
        ("AZURE_STORAGE_CONNECTION_STRING", "BlobEndpoint=https://acct.blob.core.windows.net;SharedAccessSignature="),
    ],
)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("se=2099", "se=2021"), "expired at 2021-01-01T00:00:00Z"),
        (("se=2099-01-01T00%3A00%3A00Z", "se=2021-01-01"), "expired at 2021-01-01;"),
        (("sr=c", "st=2098-01-01T00%3A00Z"), "is valid from 2098-01-01T00:00Z on"),
    ],
)
def test_a_token_outside_its_time_is_refused_before_anything_is_asked(
    tmp_path: Path, variable: str, prefix: str, change: tuple[str, str], words: str
) -> None:
    variables = {variable: prefix + TOKEN.replace(*change)}
    with pytest.raises(UserError, match=f"{variable} {words}") as caught:
        open_container(Address("acct", "https://acct.blob.core.windows.net", "c", ""), variables, threading.Event())
    assert SIGNATURE not in str(caught.value)
    with Gate() as gate, pytest.raises(UserError, match="expired"):
        AzureBags(f"azure://{azurite.ACCOUNT}/c", True, azurite.environment(gate.port, tmp_path, azurite.sas(hours=-1)))
    assert not gate.asked


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("", ""), "shows no fault: its signature may have been cut off"),
        ((f"&sig={SIGNATURE}", ""), "has no sig: it was cut off, perhaps by the shell at an &"),
        (("sp=rl", "sp=r"), "permits sp=r: List missing"),
    ],
)
def test_a_refused_token_is_described_without_its_signature(change: tuple[str, str], words: str) -> None:
    token = TOKEN.replace(*change) if change[0] else TOKEN
    text = describe_oddities({"AZURE_STORAGE_SAS_TOKEN": token})
    assert text.startswith("AZURE_STORAGE_SAS_TOKEN ")
    assert "c2Vj" not in text
    assert re.search(words, text), text


def test_a_refused_account_key_is_described_without_it() -> None:
    text = describe_oddities({"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=acct;AccountKey={'c2Vj' * 10}"})
    assert text.startswith("AZURE_STORAGE_CONNECTION_STRING shows no fault: ")
    assert "c2Vj" not in text
    assert describe_oddities({}) == ""


def test_what_is_odd_stands_in_the_refusal_of_the_service(tmp_path: Path) -> None:
    denied = Answer(403, {"x-ms-error-code": "AuthenticationFailed"}, b"")
    with Gate(alter=lambda method, path, answer: denied) as gate:
        variables = azurite.environment(gate.port, tmp_path, TOKEN.replace("sp=rl", "sp=r"))
        with pytest.raises(UserError, match=r"\(403 AuthenticationFailed\).*permits sp=r: List missing"):
            AzureBags(f"azure://{azurite.ACCOUNT}/c", True, variables)
