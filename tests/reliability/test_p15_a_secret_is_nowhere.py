"""Signatures and keys are in nothing that is printed, logged, written or started, whatever the service answers."""

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

import pytest

from tests import azurite
from tests.azurite.gate import Answer, Gate
from tests.reliability.harness import SOAK, Warm
from tests.stage1_convert.recording import cell
from tests.stage2_train.tiny import TINY, write_dataset

CONTAINER = "secrets"
# What the service answers -> exit codes.
ANSWERS = {"200": 0, "403": 2, "404": 2, "500": 75, "timeout": 75, "redirect": 2, "broken": 75, "crash": 1}
CREDENTIALS = ("token", "key", "token in a connection string")
CASES = [(a, c) for a in ANSWERS for c in CREDENTIALS if SOAK or c == "token" or a in ("200", "403", "crash")]


@pytest.fixture(scope="module")
def bag(service: azurite.Azurite, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A container with a bag; returns its address."""
    folder = cell(seconds=0.8).write(tmp_path_factory.mktemp("p15") / "bag")
    for path in folder.iterdir():
        service.container(CONTAINER).upload_blob(f"bag/{path.name}", path.read_bytes(), overwrite=True)
    return f"azure://{azurite.ACCOUNT}/{CONTAINER}/"


def secrets(port: int, folder: Path, credential: str, valid: bool) -> dict[str, str]:
    """Return a user's variables."""
    key = azurite.KEY if valid else f"X{azurite.KEY[1:]}"
    variables = azurite.environment(port, folder, azurite.sas(key=key))
    if credential == "token":
        return variables
    token, endpoint = variables.pop("AZURE_STORAGE_SAS_TOKEN"), variables.pop("AZURE_STORAGE_BLOB_ENDPOINT")
    del variables["AZURE_STORAGE_ACCOUNT"]
    with_key = f"DefaultEndpointsProtocol=http;AccountName={azurite.ACCOUNT};AccountKey={key};BlobEndpoint={endpoint}"
    with_token = f"BlobEndpoint={endpoint};SharedAccessSignature={token}"
    return {**variables, "AZURE_STORAGE_CONNECTION_STRING": with_key if credential == "key" else with_token}


def forms(variables: dict[str, str]) -> set[str]:
    """Return all spellings of the secrets in a user's variables, in lower case."""
    found = set()
    for name in ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"):
        value = variables.get(name, "")
        found |= {value, *re.findall(r"sig=([^&;]+)", value), *re.findall(r"AccountKey=([^;]+)", value)}
    found |= {unquote(secret) for secret in found}
    ways = (str, quote, quote_plus, unquote, lambda secret: quote(secret, safe=""), lambda secret: repr(secret)[1:-1])
    return {way(secret).lower() for secret in found if secret for way in ways}


def leaks(text: str, variables: dict[str, str]) -> list[str]:
    """Return the forms of secrets that stand in a text."""
    return [form for form in forms(variables) if form in text.lower()]


def texts_below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every file below a folder, its name included, as far as it could be read as text."""
    for path in folder.rglob("*"):
        yield path, f"{path} {path.read_bytes().decode('latin-1') if path.is_file() else ''}"


def arguments_of_processes() -> str:
    """Return the arguments of all processes of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode("latin-1"))
        except OSError:  # it has ended
            continue
    return "\n".join(found)


class Service:
    """The storage service as it behaves in one test; looks at all processes whenever it is asked for something."""

    def __init__(self, answer: str, port: int, stack: ExitStack) -> None:
        self.seen, self._answer, self._ended = "", answer, threading.Event()
        self.stranger = stack.enter_context(Gate())
        self.gate = stack.enter_context(Gate(port, self._alter))
        stack.callback(self._ended.set)

    def _alter(self, method: str, path: str, answer: Answer) -> Answer | None:
        self.seen += arguments_of_processes()
        if self._answer == "timeout":
            self._ended.wait(60)
        given = {
            "500": Answer(500, {}, b""),
            "redirect": Answer(302, {"Location": f"http://127.0.0.1:{self.stranger.port}{path}"}, b""),
            "broken": None,
            "timeout": None,
        }
        return given.get(self._answer, answer)


@pytest.mark.parametrize(("answer", "credential"), CASES)
def test_no_secret_is_printed_written_or_passed_on(
    service: azurite.Azurite, bag: str, warm: Warm, tmp_path: Path, answer: str, credential: str
) -> None:
    with ExitStack() as stack:
        storage = Service(answer, service.port, stack)
        variables = secrets(storage.gate.port, tmp_path / "here", credential, answer != "403")
        address = bag if answer != "404" else bag.replace(CONTAINER, "nowhere")
        flags = ("--src", address, "--out", tmp_path / "out", "--workers", 1)
        wish = {"crash": {"CRASH": "1"}, "timeout": {"TIMEOUT_S": "0.1"}}.get(answer, {})
        ended = warm.run(tmp_path / "log", "tests.reliability.loud", *flags, die_at=0, **variables, **wish)
    assert ended.code == ANSWERS[answer], ended.output
    assert leaks(ended.output, variables) == []
    assert "the secret is ***" in ended.output
    assert "ZeroDivisionError" in ended.output
    if credential != "key" and answer not in ("timeout", "broken"):  # urllib3 tells all it knows
        assert re.search(r'"GET /devstoreaccount1/\S*\*\*\*\S* HTTP/1.1" \d\d\d', ended.output)
    assert [path for path, text in texts_below(tmp_path) if leaks(text, variables)] == []
    assert (tmp_path / "out" / "meta" / "conversion.html").exists() == (answer in ("200", "crash"))
    assert "stage1_convert" in storage.seen or "warm" in storage.seen
    assert leaks(storage.seen, variables) == []
    assert storage.stranger.asked == []  # nor does a redirect carry one away


def test_a_training_and_its_wandb_files_hold_none(service: azurite.Azurite, warm: Warm, tmp_path: Path) -> None:
    variables = secrets(service.port, tmp_path, "token", True) | {"WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567"}
    dataset, out = write_dataset(tmp_path / "dataset"), tmp_path / "out"
    settings = [
        f"data.dataset={dataset}",
        f"training.output_dir={out}",
        "wandb.enabled=true",
        "wandb.mode=offline",
        "training.steps=2",
    ]
    ended = warm.run(tmp_path / "log", "stage2_train", "--override", *TINY, *settings, die_at=0, **variables)
    assert ended.code == 0, ended.output
    assert list((out / "wandb").glob("offline-run-*/*.wandb"))
    hidden = [*forms(variables), variables["WANDB_API_KEY"]]
    assert [path for path, text in texts_below(tmp_path) if any(form in text.lower() for form in hidden)] == []
