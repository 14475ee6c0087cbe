"""What --src and the environment say together, and what is refused before a credential leaves the machine."""

import threading

import pytest

from common.cli.command import UserError
from stage1_convert.sources import is_remote
from stage1_convert.sources.azure_client import Address, open_container, parse_address

ENDPOINT = "https://acct.blob.core.windows.net"
EMULATOR = "http://127.0.0.1:10000/devstoreaccount1"
CONNECTION = f"DefaultEndpointsProtocol=https;AccountName=acct;AccountKey={'a' * 86}==;EndpointSuffix=core.windows.net"


@pytest.mark.parametrize(
    ("src", "variables", "expected"),
    [
        ("azure", {"AZURE_STORAGE_ACCOUNT": "acct"}, Address("acct", ENDPOINT, "datasets", "houston_recordings/")),
        (
            "azure",
            {"AZURE_STORAGE_ACCOUNT": "acct", "AZURE_BLOB_CONTAINER": "c", "AZURE_BLOB_PREFIX": ""},
            Address("acct", ENDPOINT, "c", ""),
        ),
        ("azure://acct", {"AZURE_BLOB_PREFIX": "p/"}, Address("acct", ENDPOINT, "datasets", "p/")),
        ("azure://acct/c", {"AZURE_BLOB_PREFIX": "p/"}, Address("acct", ENDPOINT, "c", "")),
        ("azure://acct/c/a/b", {}, Address("acct", ENDPOINT, "c", "a/b")),
        ("azure:///c/a", {"AZURE_STORAGE_ACCOUNT": "acct"}, Address("acct", ENDPOINT, "c", "a")),
        (
            "azure",
            {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION},
            Address("acct", ENDPOINT, "datasets", "houston_recordings/"),
        ),
        (f"{ENDPOINT}/c/day%201/%C3%BC", {}, Address("acct", ENDPOINT, "c", "day 1/ü")),
        (ENDPOINT, {}, Address("acct", ENDPOINT, "datasets", "houston_recordings/")),
        (f"{EMULATOR}/c/p", {}, Address("devstoreaccount1", EMULATOR, "c", "p")),
        (
            "azure://devstoreaccount1/c/p",
            {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"},
            Address("devstoreaccount1", EMULATOR, "c", "p"),
        ),
        (
            "azure://acct/c",
            {"AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint={ENDPOINT};SharedAccessSignature=sv=1&sig=x"},
            Address("acct", ENDPOINT, "c", ""),
        ),
        (
            "https://storage.our.house/c/p",
            {"AZURE_STORAGE_BLOB_ENDPOINT": "https://storage.our.house", "AZURE_STORAGE_ACCOUNT": "acct"},
            Address("acct", "https://storage.our.house", "c", "p"),
        ),
    ],
)
def test_an_address_is_made_of_what_was_said(src: str, variables: dict[str, str], expected: Address) -> None:
    assert is_remote(src)
    assert parse_address(src, variables) == expected


@pytest.mark.parametrize(
    ("src", "variables", "words"),
    [
        ("azure", {}, "set AZURE_STORAGE_ACCOUNT"),
        ("azure://other/c", {"AZURE_STORAGE_ACCOUNT": "acct"}, "the credentials are those of acct"),
        ("azure://other/c", {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION}, "the credentials are those of acct"),
        ("https://acct.blob.evil.com/c", {"AZURE_STORAGE_ACCOUNT": "acct"}, "sent to storage accounts only"),
        ("http://acct.blob.core.windows.net/c", {}, "sent to storage accounts only"),
        (f"{ENDPOINT}/c?sv=1&sig=hunter2hunter2", {}, "credentials come from the environment"),
        ("https://user:hunter2hunter2@acct.blob.core.windows.net/c", {}, "credentials come from the environment"),
    ],
)
def test_an_address_that_does_not_fit_is_refused_without_repeating_a_secret(
    src: str, variables: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_address(src, variables)
    assert "hunter2" not in str(caught.value)


def test_a_folder_is_not_remote() -> None:
    assert not any(map(is_remote, ["bags", "/data/rosbags", "azure_bags", "./azure", "C:\\bags"]))


def test_a_broken_connection_string_is_refused_without_repeating_it() -> None:
    broken = "AccountKey=hunter2hunter2"
    with pytest.raises(UserError, match="is no connection string") as caught:
        open_container(
            Address("acct", ENDPOINT, "c", ""), {"AZURE_STORAGE_CONNECTION_STRING": broken}, threading.Event()
        )
    assert "hunter2" not in str(caught.value)
