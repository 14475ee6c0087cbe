"""Submitting, with stand-ins for `docker` and `osmo` on the PATH that record their arguments."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from osmo.check.template import read
from osmo.local import __main__ as local
from osmo.site import read_site
from tests.conftest import ROOT
from tests.osmo.conftest import OSMO, WORKFLOWS

FILE = OSMO / "convert-train-eval.yaml"
ADDRESSES = ("192.168.1.100", "stosmorbt3dev001", "houston_recordings")
REGISTRY = read(FILE).defaults["registry"]
TRAIN, EVAL = f"{REGISTRY}/ur10e-act-train:latest", f"{REGISTRY}/ur10e-act-eval:latest"
SITE = """\
host: https://osmo.example.com
pool: arms
values:
  registry: ghcr.io/acme
  account: acct
  steps: 7
  shm: true
  results_url: azure://acct/results
  regsitry: ghcr.io/typo
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with the two commands; each records its words and fails when they begin with a line of the file `fail`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("docker", "osmo"):
        (folder / name).write_text(
            f'#!/bin/sh\nwords="{name} $*"\necho "$words" >> "{tmp_path}/asked"\n'
            f'while read -r start; do case "$words" in "$start"*) exit 1;; esac; done < "{tmp_path}/fail"\n'
        )
        (folder / name).chmod(0o755)
    (tmp_path / "fail").touch()
    return folder


def submit(tools: Path, *args: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "osmo.submit", *map(str, args)]
    environment = {**os.environ, "PATH": f"{tools}:/usr/bin-none"}
    # /bin/sh of the stand-ins is found by its full name; nothing else of this machine is on the PATH
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def asked(tools: Path) -> list[str]:
    log = tools.parent / "asked"
    return log.read_text().splitlines() if log.exists() else []


def test_it_builds_tags_pushes_both_images_and_submits(tools: Path) -> None:
    done = submit(tools, FILE, "--pool", "gpu-pool", "--set", "steps=10", "wandb=true", "--set-string", "name=mine")
    assert done.returncode == 0, done.stderr
    assert asked(tools) == [
        "docker info",
        "osmo pool list",
        "docker build -t ur10e-act-eval:latest -f osmo/Dockerfile.eval .",
        f"docker tag ur10e-act-eval:latest {EVAL}",
        f"docker push {EVAL}",
        "docker build -t ur10e-act-train:latest -f osmo/Dockerfile .",
        f"docker tag ur10e-act-train:latest {TRAIN}",
        f"docker push {TRAIN}",
        f"osmo workflow submit {FILE} --pool gpu-pool --set steps=10 wandb=true --set-string name=mine",
    ]


def test_another_registry_and_tag_are_pushed_and_submitted(tools: Path) -> None:
    done = submit(tools, OSMO / "train.yaml", "--set", "registry=ghcr.io/acme", "image=ur10e-act-train:1.0")
    assert done.returncode == 0, done.stderr
    assert "docker push ghcr.io/acme/ur10e-act-train:1.0" in asked(tools)
    assert "another one by" not in done.stdout


def test_dry_run_only_prints_the_steps(tools: Path) -> None:
    done = submit(tools, FILE, "--dry-run")
    assert done.returncode == 0
    assert asked(tools) == []
    steps = done.stdout.splitlines()
    assert steps[-1] == f"$ osmo workflow submit {FILE}"
    assert steps[0] == f"registry {REGISTRY}, as {FILE.name} says; another one by --site FILE or --set registry=NAME"


def test_with_no_build_the_images_must_be_in_the_registry(tools: Path) -> None:
    assert submit(tools, FILE, "--no-build").returncode == 0
    assert [words for words in asked(tools) if words.startswith("docker build")] == []
    (tools.parent / "fail").write_text(f"docker manifest inspect --insecure {TRAIN}\n")
    done = submit(tools, FILE, "--no-build")
    assert (done.returncode, f"docker push {TRAIN}, or leave out --no-build" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("fails", "missing", "words"),
    [
        ("", "docker", "docker is not on the PATH: sudo apt-get install docker.io"),
        ("docker info", "", "docker does not respond: sudo systemctl start docker"),
        ("", "osmo", "the OSMO command line is not on the PATH"),
        ("osmo pool list", "", "you are not logged in to OSMO: osmo login https://OSMO_HOST"),
        ("docker push", "", f"docker login {REGISTRY}, or for plain http"),
        ("osmo workflow submit", "", "osmo credential set NAME"),
    ],
)
def test_a_missing_tool_or_login_is_named_with_the_command_that_fixes_it(
    tools: Path, fails: str, missing: str, words: str
) -> None:
    (tools.parent / "fail").write_text(f"{fails}\n" if fails else "")
    if missing:
        (tools / missing).unlink()
    done = submit(tools, FILE)
    assert done.returncode == 2
    assert words in done.stderr
    if not fails.startswith(("docker push", "osmo workflow")):
        assert not [step for step in asked(tools) if step.startswith("docker build")]


def test_a_file_that_osmo_would_refuse_is_refused_before_any_step(tools: Path) -> None:
    done = submit(tools, FILE, "--set", "exec_timeout=1.5h")
    assert done.returncode == 2
    assert f"{FILE}:14: exec_timeout: '1.5h': expected seconds" in done.stderr
    assert submit(tools, FILE, "--release", "6.4").returncode == 2
    assert asked(tools) == []


def test_a_site_gives_the_login_the_pool_and_the_values_that_the_file_uses(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE)
    site = ("--site", tmp_path / "site.yaml")
    done = submit(tools, FILE, "--no-build", *site, "--set", "eval_device=cpu", "results=url")
    assert done.returncode == 0, done.stderr
    values = "registry=ghcr.io/acme account=acct steps=7 results_url=azure://acct/results regsitry=ghcr.io/typo"
    assert asked(tools)[-1] == f"osmo workflow submit {FILE} --pool arms --set {values} eval_device=cpu results=url"
    assert "hint: --set regsitry: nothing in the workflow uses it; did you mean registry?" in done.stderr
    submit(
        tools,
        FILE,
        "--no-build",
        *site,
        "--pool",
        "mine",
        "--set",
        "account=b",
        "registry=c",
        "results=none",
        "--set-string",
        "steps=1",
    )
    assert asked(tools)[-1].startswith(
        f"osmo workflow submit {FILE} --pool mine --set regsitry=ghcr.io/typo account=b registry=c results=none "
    )
    (tmp_path / "fail").write_text("osmo pool list\n")
    assert "osmo login https://osmo.example.com" in submit(tools, FILE, *site).stderr


def test_check_and_the_local_run_take_the_site_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site.yaml").write_text("values: {word: there, number: 1e-5, other: 3}\n")
    (tmp_path / "flow.yaml").write_text(
        "workflow:\n  name: toy\n  tasks:\n  - {name: a, image: i/j, command: [echo, '{{ word }} {{ number }}']}\n"
        "default-values: {word: '{{ nobody }}', number: 1}\n"
    )
    flow, site = str(tmp_path / "flow.yaml"), ["--site", str(tmp_path / "site.yaml")]
    assert local.main(["check", flow]) == 2
    assert local.main(["check", flow, *site]) == 0
    assert "hint" not in capsys.readouterr().out.partition("refuses it")[2]
    assert local.main(["run", flow, *site, "--work", str(tmp_path / "work")]) == 0
    assert (tmp_path / "work/a/log.txt").read_text() == "there 1e-05\n"


def test_the_shipped_site_is_that_of_the_default_values() -> None:
    site = read_site(OSMO / "site.yaml")
    for path in WORKFLOWS:
        defaults = read(path).defaults
        assert {name: defaults[name] for name in site.values.keys() & defaults.keys()} == {
            name: value for name, value in site.values.items() if name in defaults
        }


def test_the_addresses_of_one_team_stand_in_default_values_and_the_site_only() -> None:
    words = re.compile("|".join(str(value) for value in ADDRESSES))
    for path in [*OSMO.rglob("*.py"), *OSMO.rglob("*.md"), *OSMO.rglob("*.yaml"), *OSMO.rglob("*.json")]:
        text = path.read_text()
        if path != OSMO / "site.yaml":
            assert words.search(text.partition("\ndefault-values:")[0]) is None, path
