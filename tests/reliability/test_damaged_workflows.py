"""A mutated workflow file is accepted, or refused in one line with exit code 2: no traceback, no hang."""

import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from common.cli.command import UserError, one_line
from common.storage.worker import Limits, map_isolated
from osmo import submit
from osmo.local import __main__ as local
from tests.conftest import ROOT
from tests.osmo.conftest import WORKFLOWS
from tests.reliability.damage import change_values, damage
from tests.reliability.harness import loops

LIMITS = Limits(1 << 30, 60.0)
MAX_CPU_S = 10.0
# The only one that is run: whatever a mutation makes of its commands does no harm.
SMALL = """\
workflow:
  name: small
  resources:
    default: {cpu: 1, memory: 1Gi, storage: 1Gi}
  timeout: {exec_timeout: 20s}
  groups:
  - name: workers
    tasks:
    - {name: first, image: alpine, command: ["true"], lead: true, environment: {WORLD: "{{host:second}}"}}
    - name: second
      image: alpine
      command: ["true", "{{ word }}"]
      exitActions: {COMPLETE: "1,75-80"}
      files: [{path: /tmp/x, contents: "{{output}}"}]
      outputs: [{url: "azure://account/container/{{workflow_id}}"}]
  - name: last
    tasks:
    - {name: third, image: alpine, command: ["true"], inputs: [{task: second, regex: ".*"}], args: [1, "{{input:0}}"]}
default-values:
  word: hello
"""
ODD: list[Any] = [
    None, True, 0, -1, 10**400, 1.5, float("nan"), "", " ", "x" * 70_000, "{{", "{{ steps }}", "{% raw %}", "{{output}}",
    "{{input:99999999999}}", "\0", "\u2028", "\ud7ff", "../../..", "/", "azure://", [], {}, [[]], [None], {"": None},
    {1: 2}, {"name": "a"}, [{"task": "a"}], "P" * 99, "9" * 5000, "[", "(?:", "75-", "-75", "a-b",
]  # fmt: skip


class Attempt(NamedTuple):
    """A workflow file to be damaged and checked; seed -1 leaves it as it is."""

    file: Path
    seed: int


class Outcome(NamedTuple):
    """How it ended: accepted, refused or CRASHED, with the messages."""

    kind: str
    text: str
    cpu_s: float


def mutate(file: Path, seed: int) -> None:
    """Damage a file as disks do, or change values of the document; one with statements is no document before it is rendered."""
    text = file.read_text()
    if seed % 2 and "{%" not in text:
        names = ("name", "tasks", "x", "", "lead", "url", 7)
        document = change_values(yaml.safe_load(text), random.Random(seed), ODD, names)
        file.write_text(yaml.safe_dump(document, sort_keys=False))
    else:
        damage(file, seed // 2)


def check_run_and_submit(file: Path) -> Outcome:
    """Check a file, print the steps of its submission, and run it if it is the small one, as far as it is accepted."""
    started_s = time.process_time()
    messages = []
    calls: list[tuple[Callable[[list[str]], int], list[str]]]
    calls = [(local.main, ["check", str(file)]), (submit.main, [str(file), "--dry-run"])]
    if file.name == "small.yaml":
        calls.append((local.main, ["run", str(file), "--work", str(file.with_name("work"))]))
    try:
        for main, arguments in calls:
            try:
                code = main(arguments)
            except UserError as error:
                messages.append(one_line(error))
                code = 2
            if code not in ((0, 1, 2, 75) if arguments[0] == "run" else (0, 2)):
                return Outcome(f"CODE {code}", " ".join(messages), time.process_time() - started_s)
    except Exception:
        return Outcome("CRASHED", traceback.format_exc(), 0.0)
    return Outcome("refused" if messages else "accepted", " ".join(messages), time.process_time() - started_s)


def run_attempt(attempt: Attempt) -> Outcome:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for neighbor in (ROOT / "osmo").glob("*.yaml"):  # a localpath may name it
            shutil.copy(neighbor, folder)
        file = Path(shutil.copy(attempt.file, folder))
        if attempt.seed >= 0:
            mutate(file, attempt.seed)
        outcome = check_run_and_submit(file)
        text = f"{outcome.text}\n{file.read_text(errors='replace')[:3000]}"
        return outcome._replace(text=text) if outcome.kind.isupper() else outcome


@pytest.mark.parametrize("name", ["small.yaml", *(path.name for path in WORKFLOWS)])
def test_a_mutated_workflow(name: str, tmp_path: Path) -> None:
    file = ROOT / "osmo" / name
    if name == "small.yaml":
        file = tmp_path / name
        file.write_text(SMALL)
    attempts = [Attempt(file, seed) for seed in range(-1, loops(40 if name == "small.yaml" else 12, 1_500))]
    broken, counts = [], Counter[str]()
    outcomes = map_isolated(run_attempt, attempts, 2, lambda _: LIMITS)
    for attempt, outcome in zip(attempts, outcomes, strict=True):
        kind = "STOPPED" if isinstance(outcome, UserError) else "SLOW" if outcome.cpu_s > MAX_CPU_S else outcome.kind
        counts[kind] += 1
        if kind.isupper():
            broken.append(f"seed {attempt.seed}: {outcome}")
    print(f"{name}: {dict(counts)}")
    assert not broken, "\n".join(broken)
