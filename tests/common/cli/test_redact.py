"""Secrets are hidden in every spelling that occurs."""

from collections.abc import Callable
from urllib.parse import quote, unquote

import pytest

from common.cli.redact import redact

SIGNATURE = "Ab+/cd3Fg4=="
TOKEN = "?sv=2024-01-01&se=2026-01-01T00%3A00%3A00Z&sp=rl&sig=Ab%2B/cd3Fg4%3D%3D"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq=="
CONNECTION = f"DefaultEndpointsProtocol=https;AccountName=acct;AccountKey={KEY};EndpointSuffix=core.windows.net"


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", TOKEN)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", CONNECTION)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "quoted for a path": quote,
    "quoted for a query": lambda text: quote(text, safe=""),
    "decoded": unquote,
}


@pytest.mark.parametrize("secret", [TOKEN, SIGNATURE, KEY, CONNECTION])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_secret_is_hidden(secret: str, spelling: str) -> None:
    text = redact(f"GET {SPELLINGS[spelling](secret)} HTTP/1.1")
    assert "***" in text
    for part in ("cd3", KEY[:12], KEY[-12:-2]):
        assert part not in text


def test_signatures_that_are_not_in_the_environment_are_hidden_too() -> None:
    assert redact("https://x/y?sv=1&sig=somebody%2Felse&sp=r") == "https://x/y?sv=1&sig=***&sp=r"
    assert redact("AccountKey=abc;AccountName=x") == "AccountKey=***;AccountName=x"


def test_other_text_and_short_secrets_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("WANDB_API_KEY", "1")
    text = "error: azure://acct/datasets/x: 403 AuthorizationFailure; design=1, 11 bags"
    assert redact(text) == text
