"""Commands of the `osmo` command line in texts: those of the earlier guide are refused, those of our README are right."""

import subprocess
import sys
from pathlib import Path

import pytest

from osmo.check.commands import check_command, check_commands
from osmo.check.spec import RELEASES
from tests.conftest import ROOT
from tests.osmo.conftest import OSMO, WORKFLOWS

# What the earlier guide told people to type, and what is right.
WRONG = [
    ("osmo login --url https://192.168.1.100", "osmo login https://HOST", RELEASES),
    ("osmo workflow logs <workflow-id> --task train-act --follow", "logs stream by themselves", RELEASES),
    ("osmo dataset download ur10e-act-checkpoint --output ./checkpoint", "mkdir -p FOLDER && osmo dataset download NAME FOLDER",
     ("6.0", "6.3")),
    ("osmo dataset download ur10e-act-sweep-lr5e5-kl10 --output ./sweep", "osmo data download azure://", ("6.4",)),
    ("osmo dataset upload ur10e-eval-dataset ./path", "osmo data upload azure://ACCOUNT/CONTAINER/PATH FOLDER", ("6.4",)),
    ("osmo secret create azure-storage-account --value x", "osmo credential set NAME --type GENERIC", RELEASES),
    ("osmo secret create azure-storage-sas --value x", "osmo credential set NAME --type GENERIC", RELEASES),
    ("osmo secret create wandb-api-key --value x", "osmo credential set NAME --type GENERIC", RELEASES),
    ("osmo workflow submit x.yaml --set a=1 --set b=2", "write --set a=1 b=2 once", ("6.0", "6.1", "6.2", "6.3")),
    ("osmo workflow submit x.yaml --local-path .", "relative to the workflow file", RELEASES),
    ("osmo workflow submit x.yaml --name mine", "the name is workflow: name:", RELEASES),
    ("osmo workflow submit x.yaml --label a=b", "no such flag", ("6.3",)),
    ("osmo workflow status x", "no such command; known: osmo workflow cancel", RELEASES),
]  # fmt: skip


@pytest.mark.parametrize(("command", "words", "releases"), WRONG, ids=[command[:45] for command, _, _ in WRONG])
def test_a_wrong_command_is_named_with_the_right_one(command: str, words: str, releases: tuple[str, ...]) -> None:
    for release in releases:
        assert any(words in message for message in check_command(command, release)), list(
            check_command(command, release)
        )


@pytest.mark.parametrize(
    "command",
    [
        "osmo workflow submit osmo/train.yaml --pool gpu-pool --set a=1 b=2 --set-string c=1e-5 --dry-run",
        "osmo workflow logs act-1 -t train-act -n 100",
        "osmo credential set wandb-api-key --type GENERIC --payload wandb_api_key=KEY",
        "mkdir -p out && osmo data download azure://a/c/p out --resume",
        "osmo login https://192.168.1.100 --method dev --username guest",
    ],
)
def test_a_right_command_is_left_alone(command: str) -> None:
    assert [
        message for release in RELEASES for message in check_command(command[command.index("osmo ") :], release)
    ] == []


def test_commands_are_found_in_fences_comments_and_over_several_lines(tmp_path: Path) -> None:
    text = """\
        Text about osmo.
        ```bash
        # first
        osmo login --url x
        osmo workflow submit a.yaml \\
            --set a=1 \\
            --set b=2
        ```
        """
    (tmp_path / "guide.md").write_text(text)
    assert [line for line, _ in check_commands(tmp_path / "guide.md", "6.3")] == [4, 5]
    (tmp_path / "flow.yaml").write_text("#   osmo secret create a\nworkflow:\n  osmo login --url: 1\n")
    assert [line for line, _ in check_commands(tmp_path / "flow.yaml", "6.3")] == [1]


@pytest.mark.parametrize("path", [*WORKFLOWS, OSMO / "README.md"], ids=lambda path: path.name)
def test_the_commands_we_tell_people_to_type_are_right_in_6_3(path: Path) -> None:
    assert check_commands(path, "6.3") == []


def test_check_says_which_releases_take_a_file_and_why_others_do_not(tmp_path: Path) -> None:
    def check(*args: object) -> "subprocess.CompletedProcess[str]":
        words = [sys.executable, "-m", "osmo.local", "check", *map(str, args)]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)

    fits = check("osmo/blob.yaml", "--set", "wandb=true")
    assert fits.returncode == 0
    assert fits.stdout.endswith("osmo/blob.yaml: fits OSMO 6.0, 6.1, 6.2, 6.3\n")
    assert "osmo/blob.yaml:67: datasets are gone in 6.4: keep results with - url:" in fits.stdout
    refused = check("osmo/blob.yaml", "--release", "6.4")
    assert refused.returncode == 2
    assert "OSMO 6.4 refuses it" in refused.stdout
    assert check("osmo/blob.yaml", "--release", "6.4", "--set", "results=url").returncode == 0
    (tmp_path / "guide.sh").write_text("osmo secret create a --value b\n")
    guide = check(tmp_path / "guide.sh")
    assert (guide.returncode, f"{tmp_path}/guide.sh:1: osmo secret: there is none" in guide.stdout) == (2, True)
