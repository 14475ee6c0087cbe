"""Names with spaces, other scripts and signs, and very long ones, work; too long a name is one line."""

import os
from pathlib import Path

from tests.reliability.harness import Ended, Warm, hashes
from tests.stage1_convert.conversion import report
from tests.stage1_convert.recording import cell

NAMES = ("with space", "Ünïcödé-ロボット-🤖", "e\u0301", "quo'te\"s", "100%{x}[y]*?", "new\nline", "-dash", "a" * 200)
NOT_UTF8 = os.fsdecode(b"latin-\xe9")


def deep(folder: Path) -> Path:
    """Return a folder whose path has some 2,000 characters, half of what the kernel takes."""
    for number in range(10):
        folder = folder / f"{number}{'d' * 199}"
    folder.mkdir(parents=True)
    return folder


def convert(warm: Warm, log: Path, src: Path, out: Path) -> Ended:
    return warm.run(log, "stage1_convert", f"--src={src}", f"--out={out}")


def test_a_conversion_of_bags_with_such_names_to_such_a_place(warm: Warm, tmp_path: Path) -> None:
    src, plain = tmp_path / "src ü", tmp_path / "plain"
    for number, name in enumerate(sorted((*NAMES, NOT_UTF8))):
        for bag in (src / name, plain / f"{number:02d}"):
            cell(0.8, seed=number, size=(16, 64)).write(bag.with_name("bag"))
            bag.with_name("bag").rename(bag)
    out = deep(tmp_path) / "out 🤖"
    ended = convert(warm, tmp_path / "log", src, out)
    assert ended.code == 0, ended.output
    assert "9 converted, 0 refused" in ended.output
    assert convert(warm, tmp_path / "log", plain, tmp_path / "out").code == 0
    assert hashes(out / "data") == hashes(tmp_path / "out" / "data")
    assert {bag["bag"] for bag in report(out)["bags"]} >= set(NAMES)
    assert not warm.run(tmp_path / "log", "stage1_convert", f"--check={out}").code


def test_a_name_that_is_too_long_is_one_line(warm: Warm, tmp_path: Path) -> None:
    cell(0.8, size=(16, 64)).write(tmp_path / "src" / "bag")
    ended = convert(warm, tmp_path / "log", tmp_path / "src", tmp_path / ("n" * 300))
    assert ended.code == 2, ended.output
    (error,) = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    assert "File name too long" in error
    assert "Traceback" not in ended.output
