"""A bag that is cut off, flipped, zeroed or shuffled is read in full, salvaged and reported, or refused and reported.

It never crashes the conversion, never takes more than 10 s and 1 GB, and never loses a message in silence.
"""

import hashlib
import io
import shutil
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from mcap.writer import CompressionType, Writer

from common.cli.command import UserError, one_line
from common.storage.worker import Limits, map_isolated
from stage1_convert.pipeline.convert import RefusedError
from tests.reliability.damage import damage
from tests.reliability.harness import loops
from tests.stage1_convert.conversion import report, run
from tests.stage1_convert.longbag import register
from tests.stage1_convert.recording import TYPES, Recording, cell

LIMITS = Limits(1 << 30, 300.0)
MOST_CPU_S = 10.0  # of one conversion: time on a clock would depend on what else the machine does
SETTINGS = ("data.fps=10", "data.max_age_ms=300", "data.min_episode_s=0")
# Bags whose storage carries a checksum of every message: in them no value can change in silence either.
BAGS = ("mcap", "mcap_checksums", "mcap_messages", "sqlite3", "mcap_bare", "sqlite3_bare")
CHECKED = ("mcap_checksums",)
# Seeds that once found a fault: an index that misnames a chunk's channels, definitions that lost a field or every field.
FOUND = {"mcap_messages": (158, 391), "sqlite3": (281,), "sqlite3_bare": (281,)}


class Try(NamedTuple):
    """A damaged bag to be converted."""

    bag: Path
    seed: int


class Outcome(NamedTuple):
    """What a conversion gave: how often each topic was read, a digest of the rows, and whatever was reported."""

    done: str
    read: dict[str, int]
    rows: str
    notes: list[str]
    refused: bool
    cpu_s: float = 0.0


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same small recording in every kind of storage."""
    home = tmp_path_factory.mktemp("p11")
    recording = cell(1.0, joint_hz=30, camera_hz=10, size=(16, 16))
    recording.write(home / "mcap", "mcap")
    recording.write(home / "mcap_messages", "mcap", "message")
    recording.write(home / "sqlite3", "sqlite3")
    for name, file in (("mcap", "mcap.mcap"), ("sqlite3", "sqlite3.db3")):
        (home / f"{name}_bare").mkdir()
        shutil.copy(home / name / file, home / f"{name}_bare")
    (home / "mcap_checksums").mkdir()
    (home / "mcap_checksums" / "bag.mcap").write_bytes(with_checksums(recording))
    return home


def with_checksums(recording: Recording) -> bytes:
    """Return the recording as ROS 2's own recorder writes it: many chunks, each packed and with a checksum."""
    file = io.BytesIO()
    writer = Writer(file, chunk_size=2048, compression=CompressionType.ZSTD, enable_crcs=True)
    writer.start("ros2", "test")
    channels: dict[str, int] = {}
    for said in sorted([*recording.joints, *recording.images], key=lambda said: said.receive_ns):
        if said.topic not in channels:
            channels[said.topic] = register(writer, said.topic, said.type)
        data = bytes(TYPES.serialize_cdr(said.message, said.type))
        writer.add_message(channels[said.topic], said.receive_ns, data, said.receive_ns)
    writer.finish()  # type: ignore[no-untyped-call]
    return file.getvalue()


def victim(bag: Path, seed: int) -> Path:
    """Choose the file to damage: the storage, now and then metadata.yaml."""
    files = sorted(bag.iterdir(), key=lambda path: path.suffix == ".yaml")
    return files[-1] if seed // 5 % 8 == 5 else files[0]


def convert(one: Try) -> Outcome:
    """Damage a copy of a bag (not with seed -1) and convert it, telling how much of the processor it took."""
    started_s = time.process_time()
    return _convert(one)._replace(cpu_s=time.process_time() - started_s)


def _convert(one: Try) -> Outcome:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as home:
        src, out = Path(home, "src"), Path(home, "out")
        bag = Path(shutil.copytree(one.bag, src / "bag"))
        done = damage(victim(bag, one.seed), one.seed) if one.seed >= 0 else "nothing"
        try:
            summary = run(src, out, *SETTINGS)
        except RefusedError as error:
            return Outcome(done, {}, "", [f"{bag}: {reason}" for bag, reason in error.refused], True)
        except UserError as error:  # no bag was found at all
            return Outcome(done, {}, "", [one_line(error)], True)
        except Exception:  # reported with its seed, after all others have been tried
            return Outcome(done, {}, "", [traceback.format_exc()], False)
        (entry,) = report(out)["bags"]
        rows = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(out.glob("data/*/*.parquet"))))
        read = {topic: of["read"] for topic, of in entry["messages"].items()}
        return Outcome(done, read, rows.hexdigest(), [text for _, text in summary.warnings], False)


def judge(truth: Outcome, found: Outcome | UserError) -> str:
    """Say how a damaged bag ended; a word in capitals breaks the promise."""
    if isinstance(found, UserError):
        return "STOPPED"
    if found.cpu_s > MOST_CPU_S:
        return "SLOW"
    if not found.refused and not found.rows:
        return "CRASHED"
    if found.refused:
        return "refused" if found.notes else "REFUSED WITHOUT A WORD"
    if found.notes:
        return "reported"
    if found.read != truth.read:
        return "LOST IN SILENCE"
    return "unharmed" if found.rows == truth.rows else "a value changed"


@pytest.mark.parametrize("name", BAGS)
def test_no_damage_is_silent(bags: Path, name: str) -> None:
    seeds = [-1, *FOUND.get(name, ()), *range(loops(30, 600))]
    tries = [Try(bags / name, seed) for seed in seeds]
    truth, *found = map_isolated(convert, tries, 2, lambda _: LIMITS)
    assert isinstance(truth, Outcome)
    assert not truth.refused
    assert not truth.notes
    verdicts = [judge(truth, one) for one in found]
    figures = Counter(verdicts)
    print(f"P11 {name}: {dict(figures)}")
    broken = [
        f"seed {seed}: {verdict}: {one}"
        for seed, verdict, one in zip(seeds[1:], verdicts, found, strict=True)
        if verdict.isupper()
    ]
    assert not broken, "\n".join(broken)
    assert figures["refused"] + figures["reported"] > len(found) // 4, "the damage hardly ever hit anything"
    if name in CHECKED:
        assert not figures["a value changed"]
