"""A mutated workflow file is checked, run and submitted, or refused in one line and exit code 2: no traceback, no hang."""

import random
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
from tests.reliability.damage import change_values, damage
from tests.reliability.harness import loops

LIMITS = Limits(1 << 30, 60.0)
MOST_CPU_S = 10.0
SHIPPED = [path for path in sorted((ROOT / "osmo").glob("*.yaml")) if "workflow:" in path.read_text()]
# The only one that is run: whatever a mutation makes of its commands, they do no harm.
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
SNIPPETS = [
    "&a", "*a", "<<: *a", "? ", "- ", ": ", "|", ">", "\t", "---\n", "...\n", "%YAML 9.9\n", "!!python/object:os.system ",
    "!!int ", "!!float ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "2024-13-45", "12:30:61", "0b", "0x", "0o9",
    "1e999",    "{{", "}}", "{%", "%}", "{#",
    "{% for i in range(9) %}", "{% endfor %}", "{% set x = y %}", "{{ 1/0 }}", "{{ x.y.z }}",
    "\ufeff", "\x07", "\u0085", "\ue000", "\ue0021\ue003", "'", '"', "#", "@", "`", "default-values:\n", "workflow:\n",
]  # fmt: skip
# What once ended in a traceback, a hang or the death of the process: what to replace in SMALL, by what, and words of the
# line that it gives now.
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = {
    "a nest": ("name: small", "name: " + "[" * 500_000, "levels"),
    "a nest of default-values": ("word: hello", "word: " + "{a: " * 500_000, "levels"),
    "an alias within itself": ("resources:", "x: &a [*a]\n  resources:", "parts"),
    "laughter": (
        "resources:",
        "x: [&a1 [1, 2], " + ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(2, 12)) + "]\n  resources:",
        "parts",
    ),
    "no number": ("cpu: 1", "cpu: !!int euo", "not what its form"),
    "no date": ("word: hello", "word: 2024-13-45", "not what its form"),
    "no default-values": ("  word: hello\n", "", "default-values"),
    "private characters": ("small", "small\ue00299\ue003", "U+E002"),
    "half a command": ('["true"], lead', '["tr*ue"], lead', "cannot be started"),
    "a command with a NUL": ('["true"], lead', '["tr\\0ue"], lead', "cannot be started"),
    "a word of a megabyte": ('["true"], lead', '["true", "' + "x" * 1_000_000 + '"], lead', "cannot be started"),
    "no base64": ('contents: "{{output}}"', 'contents: "x", base64: true', "cannot be put into its place"),
    "a file where a folder is": (
        'contents: "{{output}}"}', 'contents: ""}, {path: /tmp/x/y, contents: ""}', "cannot be put into its place"
    ),
    "a file outside": ("path: /tmp/x", "path: /tmp/../../../outside", "would leave"),
    "no regular expression": ('regex: ".*"', 'regex: "("', "expected a regular expression"),
    "a template without end": ("small", ENDLESS, "loops of more"),
    "a template without size": ("small", "{{ 'x' * 10 ** 10 }}", "MemoryError"),
}  # fmt: skip


class Try(NamedTuple):
    """A workflow file to be damaged and checked; seed -1 leaves it as it is."""

    file: Path
    seed: int


class Outcome(NamedTuple):
    """How it ended: accepted, refused or CRASHED, and in which words."""

    kind: str
    text: str
    cpu_s: float


def by_line(text: str, chance: random.Random) -> str:
    """Drop, repeat, exchange, indent or spoil some lines."""
    lines = text.splitlines(keepends=True)
    for _ in range(chance.choice((1, 1, 2, 5))):
        one, two = chance.randrange(len(lines)), chance.randrange(len(lines))
        kind = chance.randrange(6)
        if kind == 0 and len(lines) > 2:
            del lines[one]
        elif kind == 1:
            lines.insert(two, lines[one])
        elif kind == 2:
            lines[one], lines[two] = lines[two], lines[one]
        elif kind == 3:
            lines[one] = " " * chance.randrange(9) + lines[one].lstrip(" ")
        else:
            at = chance.randrange(len(lines[one]))
            lines[one] = lines[one][:at] + chance.choice(SNIPPETS) + lines[one][at + chance.randrange(2) :]
    return "".join(lines)


def mutate(file: Path, seed: int) -> None:
    chance, text = random.Random(seed), file.read_text()
    kind = seed % 4
    if kind == 0:
        damage(file, seed // 4)
    elif kind == 1 and "{%" not in text:
        document = change_values(yaml.safe_load(text), chance, ODD, ("name", "tasks", "x", "", "lead", "url", 7))
        file.write_text(yaml.safe_dump(document, sort_keys=False))
    else:
        file.write_text(by_line(text, chance))


def judge(file: Path) -> Outcome:
    """Check a file, run it and submit it without doing the steps, as far as each of them lets it."""
    started_s = time.process_time()
    words = []
    ways: list[tuple[Callable[[list[str]], int], list[str]]]
    ways = [(local.main, ["check", str(file)]), (submit.main, [str(file), "--dry-run"])]
    if file.name == "small.yaml":
        ways.append((local.main, ["run", str(file), "--work", str(file.with_name("work")), "--retries", "0"]))
    try:
        for main, arguments in ways:
            try:
                code = main(arguments)
            except UserError as error:
                words.append(one_line(error))
                code = 2
            if code not in ((0, 1, 2, 75) if arguments[0] == "run" else (0, 2)):
                return Outcome(f"CODE {code}", " ".join(words), time.process_time() - started_s)
    except Exception:
        return Outcome("CRASHED", traceback.format_exc(), 0.0)
    return Outcome("refused" if words else "accepted", " ".join(words), time.process_time() - started_s)


def attempt(one: Try) -> Outcome:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as home:
        file = Path(home, one.file.name)
        file.write_bytes(one.file.read_bytes())
        for other in (ROOT / "osmo").glob("*.yaml"):  # what a localpath may name
            if other.name != file.name:
                Path(home, other.name).write_bytes(other.read_bytes())
        if one.seed >= 0:
            mutate(file, one.seed)
        outcome = judge(file)
        return (
            outcome._replace(text=f"{outcome.text}\n{file.read_text(errors='replace')[:3000]}")
            if outcome.kind.isupper()
            else outcome
        )


@pytest.mark.parametrize("name", ["small.yaml", *(path.name for path in SHIPPED)])
def test_a_mutated_workflow(name: str, tmp_path: Path) -> None:
    file = ROOT / "osmo" / name
    if name == "small.yaml":
        file = tmp_path / name
        file.write_text(SMALL)
    tries = [Try(file, seed) for seed in range(-1, loops(40 if name == "small.yaml" else 12, 1_500))]
    broken, figures = [], Counter[str]()
    for one, outcome in zip(tries, map_isolated(attempt, tries, 2, lambda _: LIMITS), strict=True):
        kind = "STOPPED" if isinstance(outcome, UserError) else "SLOW" if outcome.cpu_s > MOST_CPU_S else outcome.kind
        figures[kind] += 1
        if kind.isupper():
            broken.append(f"seed {one.seed}: {outcome}")
    print(f"{name}: {dict(figures)}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_workflow(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, word = HOSTILE[kind]
    assert SMALL.count(old) == 1
    (tmp_path / "small.yaml").write_text(SMALL.replace(old, new))
    (outcome,) = map_isolated(judge, [tmp_path / "small.yaml"], 1, lambda _: LIMITS)
    assert isinstance(outcome, Outcome), outcome
    assert not outcome.kind.isupper(), outcome
    logs = "".join(path.read_text() for path in tmp_path.glob("work/*/log.txt"))
    assert word in outcome.text + logs, outcome
