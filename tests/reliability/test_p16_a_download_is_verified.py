"""A download is verified by size and MD5, file by file: on a bad line, after a kill, with a service that lies or changes.

What is under its name is one whole version of the blob; a download that was killed starts that file again.
"""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from common.cli.command import TransientError
from tests import azurite
from tests.azurite.gate import Answer, Gate, Stall
from tests.azurite.transfer import download, fault_of, upload, upload_in_blocks
from tests.conftest import ROOT
from tests.reliability.harness import loops

MB = 1 << 20
BIG = random.Random(0).randbytes(10 * MB)
PUTS = pytest.mark.parametrize("put", [upload, upload_in_blocks])
Put = Callable[[azurite.Azurite, str, bytes], str]
Alter = Callable[[Answer], Answer | None]
pytestmark = pytest.mark.usefixtures("impatient")


CHILD = "from stage1_convert.sources.azure import AzureBags as B; import sys; b = B(sys.argv[1], True); list(b.fetch(b.bags))"


def test_a_download_that_was_killed_starts_that_file_again_and_no_other(
    service: azurite.Azurite, tmp_path: Path
) -> None:
    address = upload(service, "killed", BIG)
    service.container("killed").upload_blob("a.mcap", BIG[:MB])
    stall = Stall(7 * MB)
    with Gate(service.port, stall) as gate:
        variables = {**os.environ, **azurite.environment(gate.port, tmp_path), "PYTHONPATH": str(ROOT)}
        with subprocess.Popen([sys.executable, "-c", CHILD, address], env=variables, cwd=ROOT) as child:
            assert stall.reached.wait(60)
            child.send_signal(signal.SIGKILL)
    assert not (tmp_path / "big.mcap").exists()
    assert (tmp_path / "a.mcap").exists()
    with Gate(service.port) as gate:
        first, second = download(gate.port, tmp_path, address)
        assert gate.carried == len(BIG)
    assert (first.path.read_bytes(), second.path.read_bytes()) == (BIG[:MB], BIG)
    whole = [".a.mcap.etag", ".big.mcap.etag", "a.mcap", "big.mcap"]
    assert sorted(path.name for path in tmp_path.iterdir()) == whole


@PUTS
def test_a_blob_that_changes_while_it_is_downloaded_is_refused_until_the_next_run(
    service: azurite.Azurite, tmp_path: Path, put: Put
) -> None:
    address, other, changed = put(service, "changed", BIG), BIG[::-1], threading.Event()

    def rewrite(method: str, path: str, answer: Answer) -> Answer:
        if answer.status == 206 and not changed.is_set():
            changed.set()
            put(service, "changed", other)
        return answer

    with Gate(service.port, rewrite) as gate:
        fault = fault_of(gate.port, tmp_path, address)
    assert fault == "blob big.mcap: it was written to after it was listed; run again when its upload is complete"
    assert list(tmp_path.iterdir()) == []
    (source,) = download(service.port, tmp_path, address)
    assert source.path.read_bytes() == other


def halve(answer: Answer) -> Answer:
    """An answer that is whole, and has half of the bytes."""
    return answer._replace(body=answer.body[: len(answer.body) // 2 + 1])


def break_off(answer: Answer) -> Answer:
    """An answer that ends before its end."""
    return halve(answer)._replace(claimed=len(answer.body))


def spoil(answer: Answer) -> Answer:
    """An answer with a wrong byte."""
    return answer._replace(body=bytes([answer.body[0] ^ 1]) + answer.body[1:])


def lengthen(answer: Answer) -> Answer:
    """An answer with a byte too many."""
    return answer._replace(body=answer.body + b"!")


FAULTS: list[Alter] = [halve, break_off, spoil, lengthen, lambda _: Answer(503, {}, b""), lambda _: None]


@PUTS
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_answer_is_noticed_and_asked_for_again(
    service: azurite.Azurite, tmp_path: Path, fault: Alter, put: Put
) -> None:
    address, answers = put(service, "wrong", BIG), 0

    def alter(method: str, path: str, answer: Answer) -> Answer | None:
        nonlocal answers
        answers += answer.status == 206
        return fault(answer) if answer.status == 206 and answers == 2 else answer

    with Gate(service.port, alter) as gate:
        (source,) = download(gate.port, tmp_path, address)
    assert answers == 4
    assert source.path.read_bytes() == BIG


@pytest.mark.parametrize("fault", [halve, spoil, lengthen])
@pytest.mark.parametrize("checksums", [True, False])
def test_answers_that_stay_wrong_refuse_the_bag(
    service: azurite.Azurite, tmp_path: Path, fault: Alter, checksums: bool
) -> None:
    """Without a checksum of each answer, as from a proxy that drops it, those of the whole blob remain."""
    address = upload(service, "lies", BIG[:MB])

    def alter(method: str, path: str, answer: Answer) -> Answer | None:
        if answer.status != 206:
            return answer
        headers = {name: value for name, value in answer.headers.items() if checksums or name.lower() != "content-md5"}
        return fault(answer._replace(headers=headers))

    with Gate(service.port, alter) as gate:
        reason = str(fault_of(gate.port, tmp_path, address))
    assert "do not have the MD5 that the service gives" in reason or "bytes came, it has 1048576" in reason
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(loops(3, 200)))
def test_no_mixture_of_faults_gives_another_file(service: azurite.Azurite, tmp_path: Path, seed: int) -> None:
    """Each answer of the service may be wrong, and another version may take the blob's place once."""
    chance, name = random.Random(seed), f"mixed{seed}"
    put: Put = chance.choice([upload, upload_in_blocks])
    versions = [chance.randbytes(5 * MB + chance.randrange(MB)) for _ in range(2)]
    address, is_new = put(service, name, versions[0]), False

    def alter(method: str, path: str, answer: Answer) -> Answer | None:
        nonlocal is_new
        if answer.status == 206 and not is_new and chance.random() < 0.2:
            put(service, name, versions[1])
            is_new = True
        return chance.choice(FAULTS)(answer) if answer.status == 206 and chance.random() < 0.6 else answer

    with Gate(service.port, alter) as gate:
        for _ in range(20):  # as often as a user would run the same command again
            try:
                if fault_of(gate.port, tmp_path, address) is None:
                    break
            except TransientError:
                continue
    assert (tmp_path / "big.mcap").read_bytes() in versions[: 1 + is_new]  # the old one when its end had come already
    assert sorted(path.name for path in tmp_path.iterdir()) == [".big.mcap.etag", "big.mcap"]
