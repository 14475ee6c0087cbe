"""Every package that `make setup` installs is pinned: the same commit is the same software, on every machine."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PINNED = {
    f"{canonicalize_name(name)}=={version}"
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)(?: ;.*)?$", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )
}


def needed(requirements: list[str], extras: set[str], seen: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the names of all packages that requirements bring, those of chosen extras included."""
    for text in requirements:
        requirement = Requirement(text)
        name, marker = canonicalize_name(requirement.name), requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            continue
        for extra in sorted(requirement.extras) or [""]:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            if name != "bag2act":
                yield name
                try:
                    inner = distribution(name).requires or []
                except PackageNotFoundError:  # of the other build of torch: it pins the packages of CUDA itself
                    continue
                yield from needed(inner, {extra}, seen)


def project() -> list[str]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    options = table["optional-dependencies"]
    return [
        *table["dependencies"],
        *(text for name in ("dev", "docs", "onnx", "rerun", "tensorboard") for text in options[name]),
    ]


def test_every_package_is_pinned_to_the_version_that_is_tested() -> None:
    names = set(needed(project(), {""}, set()))
    assert len(names) > 60
    installed = {}
    for name in names:
        try:
            installed[name] = distribution(name).version.partition("+")[0]  # torch says which build it is
        except PackageNotFoundError:
            assert name.startswith(("nvidia", "triton", "cuda")), f"{name} is needed and not installed"
    wanted = [f"{name}=={version}" for name, version in sorted(installed.items())]
    missing = [line for line in wanted if line not in PINNED]
    assert not missing, "not pinned so in constraints.txt:\n" + "\n".join(missing)
