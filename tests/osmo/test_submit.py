"""Submitting, with stand-ins for `docker` and `osmo` on the PATH that record their arguments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.osmo.conftest import OSMO

FILE = OSMO / "convert-train-eval.yaml"
TRAIN, EVAL = "192.168.1.100:5000/ur10e-act-train:latest", "192.168.1.100:5000/ur10e-act-eval:latest"


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


def test_dry_run_only_prints_the_steps(tools: Path) -> None:
    done = submit(tools, FILE, "--dry-run", "--base", "nvcr.io/nvidia/pytorch:25.06-py3")
    assert done.returncode == 0
    assert asked(tools) == []
    steps = done.stdout.splitlines()
    assert steps[-1] == f"$ osmo workflow submit {FILE}"
    assert any("osmo/Dockerfile --build-arg BASE=nvcr.io/nvidia/pytorch:25.06-py3 ." in step for step in steps)


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
        ("osmo pool list", "", "you are not logged in to OSMO: osmo login https://192.168.1.100"),
        ("docker push", "", "docker login 192.168.1.100:5000, or for plain http"),
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
    assert f"{FILE}:12: exec_timeout: '1.5h': expected seconds" in done.stderr
    assert submit(tools, FILE, "--release", "6.4").returncode == 2
    assert asked(tools) == []
