"""What --src says and the environment in; where the blobs lie, and a client that may read them, out.

The URL's own words count: a URL that names a container names the prefix, too, and no prefix means the whole container.
What it leaves open comes from AZURE_STORAGE_ACCOUNT, AZURE_BLOB_CONTAINER and AZURE_BLOB_PREFIX.
"""

import importlib
import ipaddress
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from common.cli.command import UserError

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

EMULATOR = "devstoreaccount1"
DEFAULT_CONTAINER, DEFAULT_PREFIX = "datasets", "houston_recordings/"
CREDENTIALS = (
    "AZURE_STORAGE_SAS_TOKEN with AZURE_STORAGE_ACCOUNT (Read and List suffice), or AZURE_STORAGE_CONNECTION_STRING, or "
    "install azure-identity (pip install 'bag2act[azure]') and sign in"
)
BLOB_HOST = re.compile(
    r"(?P<account>[a-z0-9]+)(-secondary)?(\.z\d+)?\.(blob|dfs)\."
    r"(core\.windows\.net|storage\.azure\.net|core\.usgovcloudapi\.net|core\.chinacloudapi\.cn)"
)
CHUNK_BYTES = 4 << 20
TIMEOUT_S = 30.0


class Address(NamedTuple):
    """Where blobs lie; `endpoint` is the account's URL, with the account in its path for an emulator."""

    account: str
    endpoint: str
    container: str
    prefix: str

    def __str__(self) -> str:
        """Return it as people know it."""
        return f"azure://{self.account}/{self.container}/{self.prefix}"


def is_remote(src: str) -> bool:
    """Tell whether --src means blobs: `azure`, azure://..., https://... or http://..."""
    return src == "azure" or src.lower().startswith(("azure:", "https:", "http:"))


def parse(src: str, environment: Mapping[str, str] = os.environ) -> Address:
    """Return the address that `src` and the environment give; raises UserError when they do not give one."""
    url = urlsplit("azure://" if src == "azure" else src)
    if url.query or url.fragment or url.username or url.password:
        raise UserError(f"--src carries more than a place; credentials come from the environment: {CREDENTIALS}")
    path = unquote(url.path).lstrip("/")
    home = _home(environment)
    if url.scheme != "azure":
        account, endpoint, path = _split_endpoint(f"{url.scheme}://{url.netloc}/{path}", home)
    else:
        account = url.netloc or home.account
        if not account:
            raise UserError(
                "--src names no storage account: expected azure://ACCOUNT/..., or set AZURE_STORAGE_ACCOUNT"
            )
        endpoint = home.endpoint or f"https://{account}.blob.core.windows.net"
    if home.account and account != home.account:
        raise UserError(f"--src names the account {account}, but the credentials are those of {home.account}")
    container, _, prefix = path.partition("/")
    if not container:
        container = environment.get("AZURE_BLOB_CONTAINER") or DEFAULT_CONTAINER
        prefix = environment.get("AZURE_BLOB_PREFIX", DEFAULT_PREFIX)
    return Address(account, endpoint, container, prefix)


def sign_in(address: Address, environment: Mapping[str, str] = os.environ) -> "ContainerClient":
    """Return a client of the container with whatever credential the environment has.

    Raises UserError when it has none.
    """
    from azure.core.credentials import AzureSasCredential
    from azure.storage.blob import ContainerClient

    # Our own loop resumes and backs off; a redirect could carry a signature to a stranger.
    options: dict[str, Any] = {
        "retry_total": 0,
        "permit_redirects": False,
        "connection_timeout": TIMEOUT_S,
        "read_timeout": TIMEOUT_S,
        "max_single_get_size": CHUNK_BYTES,
        "max_chunk_get_size": CHUNK_BYTES,
    }
    credential: Any
    connection = environment.get("AZURE_STORAGE_CONNECTION_STRING")
    token = environment.get("AZURE_STORAGE_SAS_TOKEN", "").lstrip("?")
    if token:
        credential = AzureSasCredential(token)
    elif connection:
        try:
            return ContainerClient.from_connection_string(connection, address.container, **options)
        except ValueError:
            raise UserError(
                "AZURE_STORAGE_CONNECTION_STRING is no connection string; copy it from the portal"
            ) from None
    else:
        credential = _default_credential()
    return ContainerClient(address.endpoint, address.container, credential=credential, **options)


def _default_credential() -> Any:
    try:
        identity = importlib.import_module("azure.identity")
    except ImportError:
        raise UserError(f"no credential for Azure: set {CREDENTIALS}") from None
    return identity.DefaultAzureCredential()


class _Home(NamedTuple):
    """The account that the credentials belong to, and its endpoint where that is not Azure's own; empty: not known."""

    account: str
    endpoint: str


def _home(environment: Mapping[str, str]) -> _Home:
    endpoint = environment.get("AZURE_STORAGE_BLOB_ENDPOINT", "").rstrip("/")
    account = environment.get("AZURE_STORAGE_ACCOUNT", "")
    connection = environment.get("AZURE_STORAGE_CONNECTION_STRING", "")
    if connection and not environment.get("AZURE_STORAGE_SAS_TOKEN"):
        fields = dict(part.partition("=")[::2] for part in connection.split(";") if part)
        if fields.get("UseDevelopmentStorage") == "true":
            fields |= {"AccountName": EMULATOR, "BlobEndpoint": f"http://127.0.0.1:10000/{EMULATOR}"}
        endpoint = fields.get("BlobEndpoint", "").rstrip("/")
        account = fields.get("AccountName", "")
        if not endpoint and account:
            endpoint = f"https://{account}.blob.{fields.get('EndpointSuffix', 'core.windows.net')}"
        if not account and endpoint:
            account = _split_endpoint(f"{endpoint}/", _Home("", endpoint)).account
    return _Home(account, endpoint)


class _Split(NamedTuple):
    account: str
    endpoint: str
    path: str


def _split_endpoint(url: str, home: _Home) -> _Split:
    """Split a URL into account, endpoint, and container with prefix; an emulator has the account in its path."""
    parts = urlsplit(url)
    host, path = parts.hostname or "", unquote(parts.path).lstrip("/")
    own = home.endpoint and f"{url.rstrip('/')}/".startswith(f"{home.endpoint}/")
    matched = BLOB_HOST.fullmatch(host)
    if parts.scheme == "https" and matched:
        return _Split(matched["account"], f"https://{host}", path)
    if _is_loopback(host):
        account, _, path = path.partition("/")
        return _Split(account, f"{parts.scheme}://{parts.netloc}/{account}", path)
    if own:
        rest = url[len(home.endpoint) :].lstrip("/")
        return _Split(home.account or host.partition(".")[0], home.endpoint, unquote(rest))
    raise UserError(
        f"--src leads to {parts.scheme}://{parts.netloc}, and credentials are sent to storage accounts only: expected "
        "https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX, or set AZURE_STORAGE_BLOB_ENDPOINT"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
