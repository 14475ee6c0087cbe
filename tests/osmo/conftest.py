"""What the tests of the workflows share: paths, overrides that make a training tiny, and processes of the runner."""

import os
import subprocess
import sys
import time
from pathlib import Path

from osmo.local.runner import LOG, Result
from tests.conftest import ROOT, TINY_TRAINING

OSMO = ROOT / "osmo"
WORKFLOWS = sorted(path for path in OSMO.glob("*.yaml") if "\nworkflow:" in path.read_text())
TINY = " ".join([*(text for text in TINY_TRAINING if "steps" not in text), "data.val_fraction=0.5"])


def log_of(result: Result, name: str) -> Path:
    return result.work / name / LOG


def output_of(result: Result, name: str) -> Path:
    return result.work / name / "output"


def start(*args: object) -> "subprocess.Popen[str]":
    """Start `python -m osmo.local` with its messages in a pipe."""
    words = [sys.executable, "-m", "osmo.local", *map(str, args)]
    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def running(*parts: str) -> list[int]:
    """Return the other processes whose command lines contain every part; arguments are separated by NUL."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            found += [int(entry.name)] if all(part.encode() in words for part in parts) else []
    return found
