"""A real blob service on loopback: Microsoft's Azurite from npm, pinned by the lock file beside this."""

import atexit
import contextlib
import functools
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from azure.storage.blob import AccountSasPermissions, ContainerClient, ResourceTypes, generate_account_sas

from tests.browser import require

BINARY = Path(__file__).parent / "node_modules" / ".bin" / "azurite-blob"
ACCOUNT = "devstoreaccount1"
# The emulator's key, the same everywhere and printed in its manual: a secret only to our tests.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Azurite(NamedTuple):
    """A running service."""

    port: int

    @property
    def connection_string(self) -> str:
        """Return what opens everything."""
        endpoint = f"http://127.0.0.1:{self.port}/{ACCOUNT}"
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint};"

    def container(self, name: str) -> ContainerClient:
        """Return an owner's client of a container, which is made."""
        client = ContainerClient.from_connection_string(self.connection_string, name)
        with contextlib.suppress(Exception):
            client.create_container()
        return client


def sas(hours: int = 1, key: str = KEY) -> str:
    """Return a token that may read and list for some hours, or could until some hours ago, signed with `key`."""
    end = datetime.now(UTC) + timedelta(hours=hours)
    may = AccountSasPermissions(read=True, list=True)
    return generate_account_sas(ACCOUNT, key, ResourceTypes(container=True, object=True), may, end)


def environment(port: int, folder: Path, token: str | None = None) -> dict[str, str]:
    """Return the variables of a user who has a token for reading and listing."""
    return {
        "AZURE_STORAGE_ACCOUNT": ACCOUNT,
        "AZURE_STORAGE_SAS_TOKEN": token or sas(),
        "AZURE_STORAGE_BLOB_ENDPOINT": f"http://127.0.0.1:{port}/{ACCOUNT}",
        "BLOB_DEST_DIR": str(folder),
    }


@functools.cache
def shared() -> Azurite:
    """Return a service that runs until this process ends, the same to everybody in it."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(running())


@contextlib.contextmanager
def running() -> Iterator[Azurite]:
    """Start the service on a free port and stop it in the end."""
    node = shutil.which("node")
    require(node and BINARY.exists(), "Azurite (npm ci --prefix tests/azurite)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    command = [str(BINARY), "--blobHost", "127.0.0.1", "--blobPort", f"{port}", *flags]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield Azurite(port)
        finally:
            process.terminate()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        assert process.poll() is None, "Azurite ended at once"
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise AssertionError("Azurite does not listen")
