"""Removal of secrets from everything that is printed or logged.

A secret of the environment is searched for as it is, quoted for a URL, and decoded: urllib3 at DEBUG prints whole URLs, and
with them the signature of a shared access token.
"""

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from types import TracebackType
from urllib.parse import quote, unquote

VARIABLES = (
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_PASSWORD",
    "IDENTITY_HEADER",
    "WANDB_API_KEY",
    "HF_TOKEN",
)
HIDDEN = "***"
MIN_SECRET_CHARS = 8  # replacing shorter ones would garble the text
# The value after one of these names is a secret, also one that is not in the environment.
NAMED = re.compile(r"(?i)\b(sig|AccountKey|SharedAccessSignature)(=|%3D)([^\s&;'\"<>]+)")


def redact(text: str) -> str:
    """Return `text` with every secret of this process's environment replaced."""
    for form in _forms(os.environ):
        text = text.replace(form, HIDDEN)
    return NAMED.sub(rf"\1\2{HIDDEN}", text)


def _forms(environment: Mapping[str, str]) -> list[str]:
    """Return all spellings of all secrets, the longest first."""
    secrets = {part for name in VARIABLES for part in _parts(environment.get(name, ""))}
    secrets |= {unquote(secret) for secret in secrets}
    forms = secrets | {quote(secret, safe=safe) for secret in secrets for safe in ("/", "")}
    return sorted((form for form in forms if len(form) >= MIN_SECRET_CHARS), key=len, reverse=True)


def _parts(value: str) -> Iterator[str]:
    """Yield a secret and the secrets within it: the signature of a token, the key of a connection string."""
    yield value.lstrip("?")
    for found in NAMED.finditer(value):
        yield found[3]


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the finished line or lines."""
        return redact(super().format(record))


def install_hooks() -> None:
    """Print uncaught exceptions of all threads without secrets."""
    sys.excepthook = _print_exception
    threading.excepthook = lambda args: _print_exception(args.exc_type, args.exc_value, args.exc_traceback)


def _print_exception(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
