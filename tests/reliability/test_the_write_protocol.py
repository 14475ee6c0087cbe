"""After a kill at any change of a sequence of writes, every name holds its old or its new content, complete."""

import json
import signal
from pathlib import Path

from common.storage.files import find_damage, remove_stale
from tests.reliability.harness import SOAK, Warm, leftovers
from tests.reliability.warm import LARGE_BYTES

Operation = tuple[str, str]  # what is replaced, and its new text


def content(path: Path) -> str:
    """Return the text of a file, or of all files of a folder, which must be equal."""
    if path.is_file():
        return path.read_text()
    assert find_damage(path) is None
    (text,) = {file.read_text() for file in (path / "a", path / "inside" / "b")}
    return text


def kill(warm: Warm, home: Path, todo: list[Operation], die_at: int) -> None:
    """Kill a sequence at one of its changes, check the content, and complete the sequence."""
    out = home / f"out{die_at}"
    killed = warm.run(home / "log", "tests.reliability.operations", out, json.dumps(todo), die_at=die_at)
    # After the last large write there is no other.
    assert killed.code in ((-signal.SIGXFSZ, 0) if die_at < 0 else (-signal.SIGKILL,)), killed.output
    done = killed.output.count("done=")
    before, after = dict(todo[:done]), dict(todo[: done + 1])
    remove_stale(out)  # as every start does
    assert contents(out) in (before, after), f"{done} done, killed at {die_at}"
    again = warm.run(home / "log", "tests.reliability.operations", out, json.dumps(todo[done:]))
    assert again.code == 0, again.output
    remove_stale(out)
    assert not leftovers(home)
    assert contents(out) == dict(todo)


def contents(out: Path) -> dict[str, str]:
    return {path.name: content(path) for path in out.glob("[!.]*")}


def test_a_replacement_may_be_killed_at_every_change(warm: Warm, tmp_path: Path) -> None:
    todo = [(kind, f"{number} " * LARGE_BYTES) for kind in ("file", "folder") for number in range(2)]
    whole = warm.run(tmp_path / "log", "tests.reliability.operations", tmp_path / "whole", json.dumps(todo))
    assert whole.changes > 20
    for die_at in range(1, whole.changes + 1):
        kill(warm, tmp_path, todo, die_at)
        if SOAK or die_at % 3 == 0:  # many changes are followed by the same large write
            kill(warm, tmp_path, todo, -die_at)
