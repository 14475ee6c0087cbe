"""What pyproject.toml names is pinned, and what torch brings along: set-up installs everything else by its pin alone."""

import re
import tomllib
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

UNPINNED = ("azure",)  # the extra that set-up does not install


def test_every_package_that_is_named_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(requires("torch") or [])]
    for extra, texts in project["optional-dependencies"].items():
        named += [] if extra in UNPINNED else texts
    found = [requirement for requirement in map(Requirement, named) if "extra" not in str(requirement.marker)]
    names = {canonicalize_name(requirement.name) for requirement in found if requirement.name != "bag2act"}
    lines = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    missing = names - {canonicalize_name(name) for name in lines}
    # The packages of CUDA are on no other machine; torch's build of CUDA pins them itself.
    assert not {name for name in missing if not name.startswith(("nvidia", "triton", "cuda"))}
