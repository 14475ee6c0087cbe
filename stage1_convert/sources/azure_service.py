"""What the storage service answers in; blobs as we know them, their bytes, and errors of our own kinds, out."""

import base64
import contextlib
import errno
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from common.cli.command import TransientError, UserError
from stage1_convert.sources.azure_client import CREDENTIALS

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

ATTEMPTS = 6
FIRST_PAUSE_S = 0.5  # doubled with every failure in a row
BUSY = (408, 429, 500, 502, 503, 504)

T = TypeVar("T")


class RemoteFile(NamedTuple):
    """A blob: its name in the container, its place below the folder for downloads, and its version."""

    blob: str
    place: str
    size: int
    etag: str
    md5: bytes | None


class BlobError(UserError):
    """What is wrong with this one blob; others may be had."""


class DeniedError(UserError):
    """The service refuses the credentials, for this blob or for all."""


class ShortError(TransientError):
    """The service answers, but with fewer bytes than it says there are."""


class ChangedError(TransientError):
    """The blob is another one than the one that was begun, or what came is not what the service says it is."""


def read_range(client: "ContainerClient", file: RemoteFile, start: int, length: int) -> bytes:
    """Return some bytes of a blob, unverified, without a file."""
    from azure.core import MatchConditions

    def ask() -> bytes:
        with translate_errors(f"blob {file.blob}"):
            match = MatchConditions.IfNotModified
            blob = client.get_blob_client(file.blob)
            return blob.download_blob(start, length, etag=file.etag, match_condition=match, max_concurrency=1).readall()

    return with_retries(ask) if length else b""


def with_retries(ask: Callable[[], T]) -> T:
    """Return what `ask` does; what may pass is tried again a few times."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return ask()
        except TransientError:
            time.sleep(FIRST_PAUSE_S * 2**attempt)
    return ask()


def describe(properties: Any, blob: str, place: str) -> RemoteFile:
    """Return a blob's version from what the service says of it."""
    md5 = properties.content_settings.content_md5
    md5 = base64.b64decode(md5) if isinstance(md5, str) else md5
    return RemoteFile(blob, place, properties.size, properties.etag, bytes(md5) if md5 else None)


@contextlib.contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Turn what the Azure SDK raises into our errors; its texts may hold a signature, so none of them is kept."""
    from azure.core import exceptions as azure

    try:
        yield
    except azure.ClientAuthenticationError as error:
        raise _refused(what, error) from None
    except azure.ResourceNotFoundError as error:
        kind = UserError if "Container" in _code(error) else BlobError
        raise kind(f"{what}: there is no such container or blob ({_code(error)})") from None
    except azure.ResourceModifiedError:
        raise ChangedError(f"{what} was written to while it was read") from None
    except azure.HttpResponseError as error:
        if error.status_code in (401, 403):
            raise _refused(what, error) from None
        if error.status_code in (412, 416):
            raise ChangedError(f"{what} was written to while it was read") from None
        if error.status_code is None or error.status_code in BUSY:
            raise TransientError(f"{what}: the storage service failed ({_code(error)})") from None
        raise BlobError(f"{what}: the storage service refuses it ({_code(error)})") from None
    except azure.AzureError as error:
        raise TransientError(f"{what}: no connection to the storage service ({type(error).__name__})") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ELOOP):
            raise
        raise TransientError(f"{what}: the connection broke ({type(error).__name__})") from None


def _refused(what: str, error: Any) -> DeniedError:
    return DeniedError(f"{what}: the storage service refuses the credentials ({_code(error)}); expected {CREDENTIALS}")


def _code(error: Any) -> str:
    code = getattr(error, "error_code", None)
    return f"{error.status_code} {getattr(code, 'value', code) or error.reason or ''}".strip()
