"""The documentation is true: its pictures are those of the imports, the files and modules that it names exist."""

import re
from pathlib import Path

import pytest

from tests.architecture import PAGE, redrawn
from tests.conftest import ROOT

PAGES = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("*/README.md")),
]
PAGES += [ROOT / "README.md", ROOT / "tests" / "reliability" / "README.md"]


def test_the_pictures_of_the_architecture_are_those_of_the_imports() -> None:
    assert PAGE.read_text() == redrawn(PAGE.read_text()), "run python -m tests.architecture"


def test_the_steps_of_converting_one_bag_are_modules_that_exist() -> None:
    way = PAGE.read_text().split("## How one bag is converted")[1].split("## ")[0]
    names = re.findall(r"\b(?:sources|bags|align|images|dataset|pipeline|report)\.\w+", way)
    assert len(names) > 15
    missing = [name for name in names if not (ROOT / "stage1_convert" / f"{name.replace('.', '/')}.py").is_file()]
    assert not missing


def test_every_file_of_the_reliability_tests_is_in_their_index() -> None:
    folder = ROOT / "tests" / "reliability"
    index = (folder / "README.md").read_text()
    missing = [path.name for path in folder.glob("test_*.py") if f"({path.name})" not in index]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_that_exist(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_the_answers_to_where_things_go_name_files_that_exist() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().split("| you want to add |")[1].split("\n\n")[0]
    paths = [path for path in re.findall(r"`([\w/.]+/[\w.]+)`", table) if "NAME" not in path]
    assert len(paths) >= 10
    assert not [path for path in paths if not (ROOT / path).exists()]
