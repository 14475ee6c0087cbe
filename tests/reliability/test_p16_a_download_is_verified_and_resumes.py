"""A download is verified, and goes on where it broke: on a bad line, after a kill, with a service that lies or changes."""

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
from stage1_convert.sources import azure as blob
from tests import azurite
from tests.azurite.bring import bring, fault_of, upload, upload_in_blocks
from tests.azurite.gate import Answer, Gate
from tests.azurite.line import Line
from tests.conftest import ROOT
from tests.reliability.harness import loops

MB = 1 << 20
BIG = random.Random(0).randbytes(10 * MB)
MARK = b"a place that can be found again"
PUTS = pytest.mark.parametrize("put", [upload, upload_in_blocks])
Put = Callable[[azurite.Azurite, str, bytes], str]
pytestmark = pytest.mark.usefixtures("impatient")


def test_a_line_that_breaks_again_and_again_delivers_in_the_end(service: azurite.Azurite, tmp_path: Path) -> None:
    with Line(service.port) as line:
        line.cut_after = 3 * MB  # less than a piece
        (source,) = bring(line.port, tmp_path, upload(service, "broken", BIG))
        assert line.cuts > 2
        assert line.carried < len(BIG) + 3 * MB * line.cuts
    assert source.path.read_bytes() == BIG


def test_a_service_that_is_down_is_transient(service: azurite.Azurite, tmp_path: Path) -> None:
    with Line(service.port) as line:
        line.cut_after = 0
        with pytest.raises(TransientError, match="no connection to the storage service"):
            bring(line.port, tmp_path, upload(service, "down", b"x"))


CHILD = "from stage1_convert.sources.azure import AzureBags as B; import sys; b = B(sys.argv[1], True); list(b.fetch(b.offers))"


def test_a_download_that_was_killed_goes_on_where_it_was(service: azurite.Azurite, tmp_path: Path) -> None:
    address = upload(service, "killed", BIG)
    with Line(service.port) as line:
        line.stall_after = 9 * MB
        variables = {**os.environ, **azurite.environment(line.port, tmp_path), "PYTHONPATH": str(ROOT)}
        with subprocess.Popen([sys.executable, "-c", CHILD, address], env=variables, cwd=ROOT) as child:
            assert line.stalled.wait(60)
            child.send_signal(signal.SIGKILL)
    (part,) = tmp_path.iterdir()
    assert part.name.startswith(".big.mcap.")
    assert 8 * MB <= part.stat().st_size < len(BIG)
    with Gate(service.port) as gate:
        (source,) = bring(gate.port, tmp_path, address)
        assert gate.carried <= 2 * MB
    assert source.path.read_bytes() == BIG
    assert sorted(path.name for path in tmp_path.iterdir()) == [".big.mcap.etag", "big.mcap"]


@PUTS
def test_a_blob_that_changes_while_it_comes_is_brought_in_one_version(
    service: azurite.Azurite, tmp_path: Path, put: Put
) -> None:
    address, other, seen = put(service, "changed", BIG), BIG[::-1], threading.Event()

    def rewrite(method: str, path: str, answer: Answer) -> Answer:
        if gate.carried > 3 * MB and not seen.is_set():
            seen.set()
            put(service, "changed", other)
        return answer

    with Gate(service.port, rewrite) as gate:
        (source,) = bring(gate.port, tmp_path, address)
        assert 412 in {one.status for one in gate.asked}
    assert source.path.read_bytes() == other


def test_a_blob_that_never_stays_the_same_is_refused(service: azurite.Azurite, tmp_path: Path) -> None:
    address, writes = upload(service, "restless", BIG), 0

    def rewrite(method: str, path: str, answer: Answer) -> Answer:
        nonlocal writes
        if answer.status == 206:
            writes += 1
            upload(service, "restless", BIG[writes:])
        return answer

    with Gate(service.port, rewrite) as gate:
        fault = fault_of(gate.port, tmp_path, address)
    assert fault == ("blob big.mcap was written to while it was read, 3 times in a row; convert it when it is complete")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("times", [1, 99])
def test_wrong_bytes_are_noticed_and_brought_again_or_refused(
    service: azurite.Azurite, tmp_path: Path, times: int
) -> None:
    data, done = bytes(1000) + MARK + bytes(1000), 0
    address = upload(service, "wrong", data)

    def spoil(piece: bytes) -> bytes:
        nonlocal done
        done += MARK in piece
        return piece.replace(MARK, MARK.upper()) if done <= times else piece

    with Line(service.port) as line:
        line.change = spoil
        fault = fault_of(line.port, tmp_path, address)
    if times == 1:
        assert fault is None
        assert (tmp_path / "big.mcap").read_bytes() == data
    else:
        assert fault is not None
        assert fault.startswith(
            f"blob big.mcap: its {len(data)} bytes do not have the MD5 that the service gives, 3 times"
        )
        assert list(tmp_path.iterdir()) == []
    assert done == (2 if times == 1 else 3)


def begin(service: azurite.Azurite, folder: Path, address: str) -> Path:
    """Bring down a first piece of the blob and no more; returns what is kept."""

    def fail(method: str, path: str, answer: Answer) -> Answer:
        return Answer(503, {}, b"") if gate.carried else answer

    with Gate(service.port, fail) as gate, pytest.raises(TransientError, match=r"the storage service failed \(503"):
        bring(gate.port, folder, address)
    (part,) = folder.iterdir()
    assert part.stat().st_size >= 4 * MB
    return part


def test_wrong_bytes_that_were_kept_from_an_earlier_run_are_noticed(service: azurite.Azurite, tmp_path: Path) -> None:
    address = upload(service, "kept", BIG)
    part = begin(service, tmp_path, address)
    part.write_bytes(bytes(part.stat().st_size))
    (source,) = bring(service.port, tmp_path, address)
    assert source.path.read_bytes() == BIG


@PUTS
def test_a_blob_that_changes_between_two_runs_is_brought_in_one_version(
    service: azurite.Azurite, tmp_path: Path, put: Put
) -> None:
    address = put(service, "between", BIG)
    begin(service, tmp_path, address)
    put(service, "between", BIG[::-1])
    (source,) = bring(service.port, tmp_path, address)
    assert source.path.read_bytes() == BIG[::-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".big.mcap.etag", "big.mcap"]


def halve(answer: Answer) -> Answer:
    """An answer that is whole, and has half of the bytes."""
    return answer._replace(body=answer.body[: len(answer.body) // 2 + 1])


def break_off(answer: Answer) -> Answer:
    """An answer that ends before its end."""
    return answer._replace(body=answer.body[: len(answer.body) // 2], claimed=len(answer.body))


@pytest.mark.parametrize("shorten", [halve, break_off])
def test_short_bodies_are_completed(
    service: azurite.Azurite, tmp_path: Path, shorten: Callable[[Answer], Answer]
) -> None:
    address, lies = upload_in_blocks(service, "short", BIG), 0

    def lie(method: str, path: str, answer: Answer) -> Answer:
        nonlocal lies
        lies += answer.status == 206
        return shorten(answer) if answer.status == 206 and lies % 2 else answer

    with Gate(service.port, lie) as gate:
        (source,) = bring(gate.port, tmp_path, address)
    assert 3 < lies < 7  # it goes on behind what came, and does not start again
    assert source.path.read_bytes() == BIG


@PUTS
def test_a_size_that_stays_wrong_refuses_the_blob(service: azurite.Azurite, tmp_path: Path, put: Put) -> None:
    address = put(service, "never", BIG)

    def starve(method: str, path: str, answer: Answer) -> Answer:
        return answer._replace(body=b"") if answer.status == 206 else answer

    def overfeed(method: str, path: str, answer: Answer) -> Answer:
        return answer._replace(body=answer.body + b"!") if answer.status == 206 else answer

    with Gate(service.port, starve) as gate:
        assert "and no more come" in str(fault_of(gate.port, tmp_path, address))
        gate.alter = overfeed
        assert fault_of(gate.port, tmp_path, address) is not None
    assert not list(tmp_path.glob("*.mcap"))


@pytest.mark.parametrize("seed", range(loops(3, 200)))
def test_no_mixture_of_faults_gives_another_file(service: azurite.Azurite, tmp_path: Path, seed: int) -> None:
    """Each answer of the service may be cut off, shortened, spoiled, delayed by an error, or for another version."""
    chance, name = random.Random(seed), f"mixed{seed}"
    put: Put = chance.choice([upload, upload_in_blocks])
    versions = [chance.randbytes(2 * MB + chance.randrange(MB)) for _ in range(2)]
    address, spoils = put(service, name, versions[0]), 2 if put is upload else 0  # without an MD5 nobody could notice
    is_new = False

    def disturb(method: str, path: str, answer: Answer) -> Answer | None:
        nonlocal spoils, is_new
        if answer.status != 206 or chance.random() < 0.3:
            return answer
        what = chance.choice(["cut", "halve", "break", "busy", "change", "spoil", "none", "none"])
        if what == "change" and not is_new:
            put(service, name, versions[1])
            is_new = True
        if what == "spoil" and spoils:
            spoils -= 1
            at = chance.randrange(len(answer.body))
            return answer._replace(body=answer.body[:at] + bytes([answer.body[at] ^ 1]) + answer.body[at + 1 :])
        changed = {"halve": halve(answer), "break": break_off(answer), "busy": Answer(503, {}, b""), "cut": None}
        return changed.get(what, answer)

    with Gate(service.port, disturb) as gate, pytest.MonkeyPatch.context() as patch:
        patch.setattr(blob, "PARALLEL", 1)
        patch.setattr("stage1_convert.sources.azure_download.CHUNK_BYTES", MB // 2)
        for _ in range(20):  # as often as a user would run the same command again
            try:
                fault = fault_of(gate.port, tmp_path, address)
            except TransientError:
                continue
            if fault is None:
                break
    assert (tmp_path / "big.mcap").read_bytes() in versions[: 1 + is_new]  # the old one when its end had come already
    assert sorted(path.name for path in tmp_path.iterdir()) == [".big.mcap.etag", "big.mcap"]
