"""Credentials as people paste them: quoted, as a whole URL, expired, or cut off.

No text that is returned or raised here repeats a signature, a key or a whole token.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import unquote

from common.cli.command import UserError

SAS, CONNECTION = "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"
QUOTES = " '\"`\u2018\u2019\u201c\u201d"
WHOLE = (
    "shows no fault: its signature may have been cut off or changed in copying, it may belong to another account, the key or "
    "policy behind it may have been changed, or this machine's clock is wrong"
)


def clean(value: str) -> str:
    """Return a credential without the line breaks within it and the quotes and spaces around it."""
    return "".join(value.splitlines()).replace("\t", "").strip(QUOTES)


def token_of(environment: Mapping[str, str]) -> str:
    """Return the token of AZURE_STORAGE_SAS_TOKEN without the `?` and the URL that it was pasted with; "" for none."""
    token = clean(environment.get(SAS, ""))
    if token.lower().startswith(("https:", "http:")):
        token = token.partition("?")[2].partition("#")[0]
    return token.lstrip("?&")


def connection_fields(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of AZURE_STORAGE_CONNECTION_STRING."""
    parts = clean(environment.get(CONNECTION, "")).split(";")
    return dict(part.partition("=")[::2] for part in parts if part)


def check_times(environment: Mapping[str, str], now: datetime) -> None:
    """Raise UserError for a token that at `now` has expired or is not valid yet."""
    name, token = _named_token(environment)
    fields = _fields(token)
    end, start = _time(fields.get("se", "")), _time(fields.get("st", ""))
    if end and end <= now:
        raise UserError(f"{name} expired at {fields['se']}; it is {_text(now)} now; make one with a later end")
    if start and start > now:
        raise UserError(
            f"{name} is valid from {fields['st']} on; it is {_text(now)} now; wait, or make one with an earlier start"
        )


def describe_oddities(environment: Mapping[str, str]) -> str:
    """Return what is odd about the credential that the service refuses; "" when none is in the environment."""
    name, token = _named_token(environment)
    found = _token_oddities(token) if token else ()
    return f"{name} {'; it '.join(found) or WHOLE}" if name else ""


def _named_token(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the variable that the credential comes from, "" for none, and the token in it, "" for none."""
    if token := token_of(environment):
        return SAS, token
    fields = connection_fields(environment)
    return (CONNECTION if fields else ""), fields.get("SharedAccessSignature", "").lstrip("?")


def _token_oddities(token: str) -> Iterator[str]:
    fields = _fields(token)
    if not fields.get("sig"):
        yield "has no sig: it was cut off, perhaps by the shell at an &, so put it in quotes, or it is no access signature"
    permissions = fields.get("sp", "rl")
    if lacking := [word for letter, word in (("r", "Read"), ("l", "List")) if letter not in permissions]:
        yield f"permits sp={permissions}: {' and '.join(lacking)} missing"


def _fields(token: str) -> dict[str, str]:
    return {name: unquote(value) for name, _, value in (part.partition("=") for part in token.split("&"))}


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _text(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
