"""A text with `osmo ...` command lines in (a README, a script, a workflow's comments); those that OSMO refuses out.

The grammar is that of the command line of OSMO 6.0 to 6.4, as far as it goes here.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from osmo.check.spec import Finding

SUBMIT = {"--pool", "--set", "--set-string", "--set-env", "--dry-run", "--priority", "--rsync", "-t", "--format-type"}
FLAGS: dict[str, set[str]] = {
    "login": {"--method", "--username", "--password", "--token", "--token-file"},
    "logout": set(),
    "workflow submit": SUBMIT,
    "workflow validate": {"--set", "--set-string", "--pool"},
    "workflow list": {"--status", "--count", "-c", "--pool", "--name", "-t", "--format-type"},
    "workflow query": {"--verbose", "-v", "-t", "--format-type"},
    "workflow logs": {"--task", "-t", "-n", "--retry-id", "-r", "--error"},
    "workflow events": {"--task", "-t", "--retry-id", "-r"},
    "workflow cancel": {"--message", "-m", "--force"},
    "workflow restart": {"--pool"},
    "workflow exec": {"--entry", "--group"},
    "workflow port-forward": {"--port", "--host", "--udp"},
    "workflow rsync": set(),
    "workflow spec": set(),
    "task list": {"-w", "--workflow-id", "--status", "-t"},
    "credential set": {"--type", "--payload", "--payload-file"},
    "credential list": set(),
    "credential delete": set(),
    "data upload": {"--regex"},
    "data download": {"--regex", "--resume"},
    "data list": {"--regex", "--recursive", "-r"},
    "data delete": {"--regex"},
    "data check": {"--access-type"},
    "dataset upload": {"--metadata", "--labels", "--regex"},
    "dataset download": {"--regex", "--resume"},
    "dataset list": set(),
    "dataset info": set(),
    "pool list": set(),
    "resource list": {"--pool", "-p", "--platform"},
    "profile set": set(),
    "profile list": set(),
}
RIGHT = {
    ("login", "--url"): "osmo login https://HOST",
    ("workflow logs", "--follow"): "drop it: logs stream by themselves until the workflow ends",
    ("workflow logs", "-f"): "drop it: logs stream by themselves until the workflow ends",
    ("workflow submit", "--local-path"): "localpath: is relative to the workflow file; there is no flag",
    ("workflow submit", "--name"): "the name is workflow: name:, here --set name=NAME",
    ("dataset download", "--output"): "mkdir -p FOLDER && osmo dataset download NAME FOLDER",
    ("dataset download", "-o"): "mkdir -p FOLDER && osmo dataset download NAME FOLDER",
    ("workflow validate", "--set-env"): "validate has none; leave it out",
}
NO_SUCH_COMMAND = (
    "there is none: osmo credential set NAME --type GENERIC --payload key=VALUE (for storage: --type DATA)"
)
GONE = {
    "dataset upload": "osmo data upload azure://ACCOUNT/CONTAINER/PATH FOLDER",
    "dataset download": "osmo data download azure://ACCOUNT/CONTAINER/PATH FOLDER",
}
ONCE = ("--set", "--set-string", "--set-env")


def check_commands(path: Path, release: str) -> list[Finding]:
    """Return what a release refuses in the commands of a file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []  # the check of the file itself says so
    found = []
    for number, command in _commands(lines, is_yaml=path.suffix in (".yaml", ".yml")):
        found += [Finding(number, message) for message in check_command(command, release)]
    return found


def check_command(text: str, release: str) -> Iterator[str]:
    """Yield what is wrong with one command line, such as `osmo workflow submit x.yaml --set a=1`."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return
    words = words[: next((i for i, word in enumerate(words) if word in ("&&", "||", "|", ";", ">")), len(words))]
    name = " ".join(words[1:3]) if " ".join(words[1:3]) in FLAGS else " ".join(words[1:2])
    if words[1:2] == ["secret"]:
        yield f"osmo secret: {NO_SUCH_COMMAND}"
        return
    if name not in FLAGS:
        kinds = sorted(known for known in FLAGS if known.startswith(f"{words[1]} "))
        yield f"osmo {' '.join(words[1:3])}: no such command" + (
            f"; known: osmo {', osmo '.join(kinds)}" if kinds else ""
        )
        return
    if name in GONE and release >= "6.4":
        yield f"osmo {name} is gone in 6.4: {GONE[name]}"
    allowed = FLAGS[name] | ({"--label"} if name == "workflow submit" and release >= "6.4" else set())
    flags = [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
    for flag in flags:
        if flag not in allowed:
            known = f"no such flag; known: {', '.join(sorted(allowed)) or 'none'}"
            yield f"osmo {name} {flag}: {RIGHT.get((name, flag), known)}"
    for flag in ONCE:
        if flags.count(flag) > 1 and release <= "6.3":
            yield f"{flag} is given {flags.count(flag)} times and {release} keeps the last only; write {flag} a=1 b=2 once"


def _commands(lines: list[str], is_yaml: bool) -> Iterator[tuple[int, str]]:
    """Yield (line number, command) of lines that start with `osmo`, continued lines joined; of YAML the comments only."""
    number = 0
    while number < len(lines):
        line, start = lines[number], number + 1
        number += 1
        comment = line.lstrip().startswith("#")
        bare = re.sub(r"^[\s#>$]*", "", line)
        if not re.match(r"(mkdir \S+ \S+ && )?osmo [a-z]", bare) or (is_yaml and not comment):
            continue
        while bare.endswith("\\") and number < len(lines):
            bare = bare[:-1] + " " + re.sub(r"^[\s#]*", "", lines[number])
            number += 1
        yield start, bare[bare.index("osmo ") :]
