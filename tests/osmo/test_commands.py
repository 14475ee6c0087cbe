"""The `osmo ...` commands in our READMEs and workflow files exist, with these flags, in the releases of OSMO."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.osmo.conftest import WORKFLOWS

KNOWN = yaml.safe_load(Path(__file__).with_name("commands.yaml").read_text())


def commands(text: str) -> list[str]:
    """Return the commands of a text: in backticks, in code blocks or comments, continued lines joined."""
    text = re.sub(r"\\\n[ #]*", " ", text)
    return re.findall(r"(?:^[ #]*|`|&& |  # )(osmo [a-z][^`\n]*)", text, re.MULTILINE)


def mistakes(command: str) -> list[str]:
    words = shlex.split(command)
    name = next((name for name in (" ".join(words[1:3]), words[1]) if name in KNOWN), None)
    if name is None:
        return ["no such command"]
    flags = [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
    wrong = [flag for flag in flags if flag not in KNOWN[name]["flags"]]
    # Releases up to 6.3 ignore all but the last of these.
    return wrong + [flag for flag in ("--set", "--set-string", "--set-env") if flags.count(flag) > 1]


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "docs" / "cluster.md", *WORKFLOWS], ids=lambda path: path.name
)
def test_the_commands_we_tell_people_to_type_exist(path: Path) -> None:
    found = commands(path.read_text())
    assert found
    assert {command: wrong for command in found if (wrong := mistakes(command))} == {}


def test_only_dataset_commands_are_missing_in_6_4() -> None:
    found = {" ".join(shlex.split(command)[1:3]) for command in commands((ROOT / "docs" / "cluster.md").read_text())}
    gone = {name for name in found if name in KNOWN and "6.4" not in KNOWN[name]["releases"]}
    assert gone == {"dataset upload", "dataset download"}
