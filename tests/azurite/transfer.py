"""Uploads bags to a container for a test, and downloads them as a user would."""

from pathlib import Path

import pytest
from azure.storage.blob import BlobBlock

from stage1_convert.sources import azure_client
from stage1_convert.sources.azure import AzureBags
from stage1_convert.sources.source import BagPath
from tests import azurite


@pytest.fixture(scope="session")
def service() -> azurite.Azurite:
    """A running Azurite."""
    return azurite.shared()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between attempts."""
    monkeypatch.setattr(azure_client, "BACKOFF_S", 0)
    monkeypatch.setattr(azure_client, "BACKOFF_BASE", 0)


def download(port: int, folder: Path, src: str, keep: bool = True) -> list[BagPath]:
    """Download all bags and return them; none may be refused."""
    found = AzureBags(src, keep, azurite.environment(port, folder))
    bags = list(found.fetch(found.bags))
    assert [bag.fault for bag in bags] == [None] * len(bags)
    return [bag.source for bag in bags]


def fault_of(port: int, folder: Path, src: str) -> str | None:
    """Download the only bag; return why that is not possible, None when it is."""
    found = AzureBags(src, True, azurite.environment(port, folder))
    (bag,) = found.fetch(found.bags)
    return bag.fault


def upload(service: azurite.Azurite, name: str, data: bytes) -> str:
    """Upload one bag to a new container; return its address."""
    service.container(name).upload_blob("big.mcap", data, overwrite=True)
    return f"azure://{azurite.ACCOUNT}/{name}/"


def upload_in_blocks(service: azurite.Azurite, name: str, data: bytes) -> str:
    """Upload one bag in blocks, as large ones are: the service gives no MD5 of the whole blob."""
    client = service.container(name).get_blob_client("big.mcap")
    for number in range(4):
        client.stage_block(f"{number:04d}", data[number * len(data) // 4 : (number + 1) * len(data) // 4])
    client.commit_block_list([BlobBlock(f"{number:04d}") for number in range(4)])
    assert client.get_blob_properties().content_settings.content_md5 is None
    return f"azure://{azurite.ACCOUNT}/{name}/"
