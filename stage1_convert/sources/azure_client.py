"""The container that --src and the environment name: its address, a client for it, its blobs, and its errors in our types.

What the URL says counts: a URL that names a container names the prefix, too, and no prefix means the whole container. What
it leaves open comes from AZURE_STORAGE_ACCOUNT, AZURE_BLOB_CONTAINER and AZURE_BLOB_PREFIX.
"""

import base64
import contextlib
import importlib
import ipaddress
import os
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from azure.core import exceptions as azure
from azure.core.credentials import AzureSasCredential
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import ContainerClient, ExponentialRetry

from common.cli.command import TransientError, UserError
from stage1_convert.sources.azure_sas import CONNECTION, SAS, check_times, clean, connection_fields, token_of

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
CHUNK_BYTES = 4 << 20  # the largest range of which the service gives the MD5
TIMEOUT_S = 20.0  # without a byte, also how long Ctrl-C may wait for a stalled connection
ATTEMPTS = 6
BACKOFF_S, BACKOFF_BASE = 1, 2  # before retry n: 1 + 2**n seconds


class Address(NamedTuple):
    """Where blobs are stored; `endpoint` is the account's URL, with the account in its path for an emulator."""

    account: str
    endpoint: str
    container: str
    prefix: str

    def __str__(self) -> str:
        """Return the short form of the URL."""
        return f"azure://{self.account}/{self.container}/{self.prefix}"


class Blob(NamedTuple):
    """One version of a blob: its name in the container, and its path below the prefix and the download folder."""

    name: str
    path: str
    size_bytes: int
    etag: str
    md5: bytes | None


class BlobError(UserError):
    """One blob cannot be downloaded; others may be."""


class DeniedError(UserError):
    """The service refuses the credentials."""


class _Account(NamedTuple):
    """A storage account and its endpoint; empty: not known."""

    name: str
    endpoint: str


def parse_address(src: str, environment: Mapping[str, str] = os.environ) -> Address:
    """Return the address that `src` and the environment give; raises UserError when they do not give one."""
    url = urlsplit("azure://" if src == "azure" else src)
    if url.query or url.fragment or url.username or url.password:
        raise UserError(f"--src carries more than an address; credentials come from the environment: {CREDENTIALS}")
    known = _credential_account(environment)
    if url.scheme == "azure":
        name = url.netloc or known.name
        if not name:
            raise UserError(
                "--src names no storage account: expected azure://ACCOUNT/..., or set AZURE_STORAGE_ACCOUNT"
            )
        account, path = _Account(name, known.endpoint or f"https://{name}.blob.core.windows.net"), url.path
    else:
        account, path = _split_account(url, known)
    if known.name and account.name != known.name:
        raise UserError(
            f"--src names the account {account.name}, but the credentials are those of {known.name}; change one"
        )
    container, _, prefix = unquote(path).lstrip("/").partition("/")
    if not container:
        container = environment.get("AZURE_BLOB_CONTAINER") or DEFAULT_CONTAINER
        prefix = environment.get("AZURE_BLOB_PREFIX", DEFAULT_PREFIX)
    return Address(account.name, account.endpoint, container, prefix)


def _credential_account(environment: Mapping[str, str]) -> _Account:
    """Return the account that the credentials belong to."""
    fields = connection_fields(environment)
    if token_of(environment) or not fields:
        endpoint = environment.get("AZURE_STORAGE_BLOB_ENDPOINT", "").rstrip("/")
        name, pasted = environment.get("AZURE_STORAGE_ACCOUNT", ""), _account_of_url(clean(environment.get(SAS, "")))
        if name and pasted and name != pasted:
            raise UserError(f"{SAS} is of the account {pasted}, and AZURE_STORAGE_ACCOUNT says {name}; change one")
        return _Account(name or pasted, endpoint)
    if fields.get("UseDevelopmentStorage") == "true":
        return _Account(EMULATOR, f"http://127.0.0.1:10000/{EMULATOR}")
    name, endpoint = fields.get("AccountName", ""), fields.get("BlobEndpoint", "").rstrip("/")
    if name and not endpoint:
        endpoint = f"https://{name}.blob.{fields.get('EndpointSuffix', 'core.windows.net')}"
    if endpoint and not name:
        name = _split_account(urlsplit(endpoint), _Account("", endpoint))[0].name
    return _Account(name, endpoint)


def _account_of_url(text: str) -> str:
    """Return the account of a blob's URL, "" for any other text."""
    matched = BLOB_HOST.fullmatch(urlsplit(text).hostname or "") if text.lower().startswith("https:") else None
    return matched["account"] if matched else ""


def _split_account(url: SplitResult, known: _Account) -> tuple[_Account, str]:
    """Split a URL into the account and the path of container and prefix; an emulator has the account in its path."""
    host, root = url.hostname or "", f"{url.scheme}://{url.netloc}"
    matched = BLOB_HOST.fullmatch(host)
    if url.scheme == "https" and matched:
        return _Account(matched["account"], f"https://{host}"), url.path
    if _is_loopback(host):
        name, _, path = url.path.lstrip("/").partition("/")
        return _Account(name, f"{root}/{name}"), path
    if known.endpoint and f"{root}{url.path}/".startswith(f"{known.endpoint}/"):
        path = f"{root}{url.path}".removeprefix(known.endpoint)
        return _Account(known.name or host.partition(".")[0], known.endpoint), path
    raise UserError(
        f"--src leads to {root}, and credentials are sent to storage accounts only: expected "
        "https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX, or set AZURE_STORAGE_BLOB_ENDPOINT"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _WholeBodyTransport(RequestsTransport):  # type: ignore[misc]
    """Reads each body at once, so that the SDK's retry policy also covers a connection that breaks within a body.

    With validate_content the SDK reads bodies outside of its own error handling.
    """

    def send(self, request: Any, **options: Any) -> Any:
        """Send a request and return the response with its body."""
        response: Any = super().send(request, **options)
        try:
            _ = response.internal_response.content
        except OSError as error:  # what `requests` raises, which the SDK brings along
            raise azure.ServiceResponseError(error, error=error) from error
        return response


def open_container(address: Address, environment: Mapping[str, str], stop: threading.Event) -> ContainerClient:
    """Return a client of the container, with the first credential that the environment has; `stop` ends its downloads.

    Raises UserError when the environment has no credential, or a token that has expired.
    """
    check_times(environment, datetime.now(UTC))

    def check_stop(_request: object) -> None:
        if stop.is_set():
            raise CancelledError

    retries: dict[str, Any] = dict.fromkeys(
        ("retry_total", "retry_connect", "retry_read", "retry_status"), ATTEMPTS - 1
    )
    options: dict[str, Any] = {
        "retry_policy": ExponentialRetry(BACKOFF_S, BACKOFF_BASE, random_jitter_range=BACKOFF_S, **retries),
        "transport": _WholeBodyTransport(connection_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S),
        "raw_request_hook": check_stop,
        "permit_redirects": False,  # a redirect could carry a signature to a stranger
        "max_single_get_size": CHUNK_BYTES,
        "max_chunk_get_size": CHUNK_BYTES,
    }
    connection, token = clean(environment.get(CONNECTION, "")), token_of(environment)
    if connection and not token:
        try:
            return ContainerClient.from_connection_string(connection, address.container, **options)
        except ValueError:
            hint = "is no connection string; copy it from the portal"
            raise UserError(f"{CONNECTION} {hint}") from None
    credential = AzureSasCredential(token) if token else _default_credential()
    return ContainerClient(address.endpoint, address.container, credential=credential, **options)


def _default_credential() -> Any:
    try:
        identity = importlib.import_module("azure.identity")
    except ImportError:
        raise UserError(f"no credential for Azure: set {CREDENTIALS}") from None
    return identity.DefaultAzureCredential()


def list_blobs(client: ContainerClient, address: Address) -> list[Blob]:
    """Return all blobs of a folder, or the one blob, that the address names."""
    prefix = address.prefix
    folder = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    with translate_errors(str(address)):
        return [
            Blob(
                blob.name,
                blob.name[len(folder) :] or blob.name.rpartition("/")[2],
                blob.size,
                blob.etag,
                _md5(blob.content_settings.content_md5),
            )
            for blob in client.list_blobs(name_starts_with=prefix, include=["metadata"])
            if not (blob.metadata or {}).get("hdi_isfolder")  # a folder of a hierarchical account
            and (blob.name.startswith(folder) or blob.name == prefix)
        ]


def _md5(given: str | bytearray | None) -> bytes | None:
    return base64.b64decode(given) if isinstance(given, str) else bytes(given) if given else None


@contextlib.contextmanager
def translate_errors(subject: str) -> Iterator[None]:
    """Turn what the Azure SDK raises into our exception types; its texts may hold a signature, so none of them is kept."""
    try:
        yield
    except azure.AzureError as error:
        raise _translated(subject, error) from None


def _translated(subject: str, error: azure.AzureError) -> UserError | TransientError:
    status = getattr(error, "status_code", None)
    reason = getattr(error, "error_code", None) or getattr(error, "reason", None) or ""
    code = f"{status} {getattr(reason, 'value', reason)}".strip()
    kind: type[UserError | TransientError] = BlobError
    if isinstance(error, azure.ClientAuthenticationError) or status in (401, 403):
        kind, text = DeniedError, f"the storage service refuses the credentials ({code}); expected {CREDENTIALS}"
    elif isinstance(error, azure.ResourceNotFoundError):
        kind = UserError if "Container" in code else BlobError
        text = f"there is no such container or blob ({code}); compare the names in --src with those in the portal"
    elif status in (412, 416):
        text = "it was written to after it was listed; run again when its upload is complete"
    elif type(error) is azure.AzureError:  # the SDK raises the base class for nothing but a wrong checksum
        text = "its bytes do not have the MD5 that the service gives; run again, or upload it again"
    elif not isinstance(error, azure.HttpResponseError) or status is None:
        kind, text = TransientError, f"no connection to the storage service ({type(error).__name__})"
    elif status in (408, 429) or status >= 500:
        kind, text = TransientError, f"the storage service failed ({code})"
    else:
        text = f"the storage service refuses it ({code}); the error codes of Azure Blob Storage say why"
    return kind(f"{subject}: {text}")
