"""No spelling of a secret survives."""

import json
import re
from collections.abc import Callable
from urllib.parse import quote, quote_plus, unquote

import pytest

from common.cli.redact import redact

SIGNATURE = "Ab+/cd3%2F=="
TOKEN = "?sv=2024-01-01&se=2026-01-01T00%3A00%3A00Z&sp=rl&sig=Ab%2B/cd3%252F%3D%3D"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq=="
CONNECTION = f"DefaultEndpointsProtocol=https;AccountName=acct;AccountKey={KEY};EndpointSuffix=core.windows.net"


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", TOKEN)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", CONNECTION)


def lower_quoted(text: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), quote(text, safe=""))


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in a path": quote,
    "in a query": quote_plus,
    "unquoted": unquote,
    "in Python": repr,
    "in JSON": json.dumps,
    "all quoted": lambda text: quote(text, safe=""),
    "quoted in lower case": lower_quoted,
}


@pytest.mark.parametrize("secret", [TOKEN, SIGNATURE, KEY, CONNECTION])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_secret_survives(secret: str, spelling: str) -> None:
    said = redact(f"GET {SPELLINGS[spelling](secret)} HTTP/1.1")
    assert "***" in said
    for piece in ("cd3", KEY[:12], KEY[-12:-2]):
        assert piece not in said


def test_signatures_of_others_are_hidden_too() -> None:
    assert redact("https://x/y?sv=1&sig=somebody%2Felse&sp=r") == "https://x/y?sv=1&sig=***&sp=r"
    assert redact("AccountKey=abc;AccountName=x") == "AccountKey=***;AccountName=x"


def test_what_is_no_secret_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("WANDB_API_KEY", "1")
    text = "error: azure://acct/datasets/x: 403 AuthorizationFailure; design=1, 11 bags"
    assert redact(text) == text
