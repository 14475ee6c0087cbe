"""No progress, order or limit depends on the wall clock, which jumps; only a credential that expires is compared with it."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("common", "stage1_convert", "stage2_train", "stage3_eval", "osmo")
WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}

COMPARED = (
    "stage1_convert/sources/azure_client.py"  # the times in a shared access signature are those of the wall clock
)


def calls(path: Path) -> list[str]:
    """Return every call of a clock that can jump."""
    tree = ast.parse(path.read_text())
    found = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [name for name in found if ".".join(name.split(".")[-2:]) in WALL]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_clock_that_can_jump_is_asked(package: str) -> None:
    asked = {str(path.relative_to(ROOT)): calls(path) for path in (ROOT / package).rglob("*.py")}
    assert not {path: names for path, names in asked.items() if names and path != COMPARED}


def test_such_a_call_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import time, datetime\na = time.time() - datetime.datetime.now().timestamp()\n")
    assert sorted(calls(tmp_path / "x.py")) == ["datetime.datetime.now", "time.time"]
