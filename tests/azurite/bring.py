"""Shortcuts for tests: put a bag into a container, and bring down what is there as a user would."""

from pathlib import Path

import pytest
from azure.storage.blob import BlobBlock

from stage1_convert.sources import azure_client
from stage1_convert.sources.azure import AzureBags
from stage1_convert.sources.source import Source
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


def bring(port: int, folder: Path, src: str, keep: bool = True) -> list[Source]:
    """Bring all bags down and return them; none may be refused."""
    found = AzureBags(src, keep, azurite.environment(port, folder))
    bags = list(found.fetch(found.bags))
    assert [bag.fault for bag in bags] == [None] * len(bags)
    return [bag.source for bag in bags]


def fault_of(port: int, folder: Path, src: str) -> str | None:
    """Return why the only bag there cannot be had."""
    found = AzureBags(src, True, azurite.environment(port, folder))
    (bag,) = found.fetch(found.bags)
    return bag.fault


def upload(service: azurite.Azurite, name: str, data: bytes) -> str:
    """Put one bag into a container of its own; returns its address."""
    service.container(name).upload_blob("big.mcap", data, overwrite=True)
    return f"azure://{azurite.ACCOUNT}/{name}/"


def upload_in_blocks(service: azurite.Azurite, name: str, data: bytes) -> str:
    """Put a bag there as large ones are, in blocks: the service gives no MD5 for it."""
    client = service.container(name).get_blob_client("big.mcap")
    for number in range(4):
        client.stage_block(f"{number:04d}", data[number * len(data) // 4 : (number + 1) * len(data) // 4])
    client.commit_block_list([BlobBlock(f"{number:04d}") for number in range(4)])
    assert client.get_blob_properties().content_settings.content_md5 is None
    return f"azure://{azurite.ACCOUNT}/{name}/"
