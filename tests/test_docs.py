"""The documentation is true: its pictures are those of the imports, the files and modules that it names exist."""

import os
import re
import shutil
from functools import cache
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs.diagram import svg
from tests.architecture import PAGE, diagrams, redrawn
from tests.conftest import ROOT, run_bash_blocks, run_module

PAGES = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("*/README.md")),
]
PAGES += [ROOT / "README.md", ROOT / "tests" / "reliability" / "README.md"]


def test_the_pictures_of_the_architecture_are_those_of_the_imports() -> None:
    assert PAGE.read_text() == redrawn(PAGE.read_text()), "run python -m tests.architecture"


def test_a_diagram_draws_every_arrow_downward_from_box_to_box() -> None:
    for _, flowchart in diagrams():
        drawing = ElementTree.fromstring(svg(flowchart))
        rects, texts, paths = (
            list(drawing.iter(f"{{http://www.w3.org/2000/svg}}{tag}")) for tag in ("rect", "text", "path")
        )
        boxes = {
            text.text: [float(rect.attrib[key]) for key in ("x", "y", "width", "height")]
            for rect, text in zip(rects, texts, strict=True)
        }
        for (x, y, width, _), (other_x, other_y, other_width, _) in combinations(boxes.values(), 2):
            assert y != other_y or x + width < other_x or other_x + other_width < x, "boxes of a row overlap"
        arrows = re.findall(r"(\w+) --> (\w+)", flowchart)
        drawn = [path.attrib["d"] for path in paths if path.attrib["class"] == "arrow"]
        for (importer, imported), d in zip(arrows, drawn, strict=True):
            (x, y, width, height), (end_x, end_y, end_width, _) = boxes[importer], boxes[imported]
            first, *_, last = re.findall(r"(\d+) (-?[\d.]+)", d)
            assert x < float(first[0]) < x + width, f"{importer} --> {imported}"
            assert end_x < float(last[0]) < end_x + end_width, f"{importer} --> {imported}"
            assert (float(first[1]), float(last[1])) == (y + height, end_y), f"{importer} --> {imported}"
            assert end_y > y


def test_the_steps_of_converting_one_bag_are_modules_that_exist() -> None:
    way = PAGE.read_text().split("## How one bag is converted")[1].split("## ")[0]
    names = re.findall(r"\b(?:sources|bags|streams|align|images|dataset|pipeline|report)\.\w+", way)
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


@pytest.mark.slow
def test_the_documentation_builds_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Strict: every internal link and anchor leads somewhere."""
    done = run_module("mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list(ROOT.glob("docs/*.md")))
    architecture = (tmp_path / "site" / "architecture.html").read_text()
    assert architecture.count('<svg class="diagram"') == len(list(diagrams())), (
        "a diagram that is not drawn is shown as its source"
    )
    loaded = r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)"
    assert not [
        found for page in pages for found in re.findall(loaded, page.read_text()) if "rel=canonical" not in found
    ]


# README.md and cluster.md are run by tests of their own.
WITH_COMMANDS = [page for page in ROOT.glob("docs/*.md") if "```bash" in page.read_text() and page.stem != "cluster"]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_run_as_written(page: Path, readme_results: Path, tmp_path: Path) -> None:
    """In a folder in which those of README.md were run before."""
    shutil.copytree(readme_results, tmp_path / "here", symlinks=True, copy_function=os.link)
    run_bash_blocks(page, tmp_path / "here")


@cache
def help_of(module: str) -> str:
    return run_module(module, "--help").stdout


def test_the_flags_of_commands_that_are_not_run_exist() -> None:
    checked = set()
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command, _, _ = line.partition(" #")
                match = re.search(r"-m ((?:stage\d_\w+|demo|bench|examples)(?:\.\w+)?)\s(.*)", command)
                module, arguments = (match[1], match[2]) if match else ("", "")
                for flag in re.findall(r"(?<!\S)--[\w-]+", arguments):
                    checked.add(flag)
                    assert re.search(rf"{flag}\b", help_of(module)), f"{page.name}: {command}: no flag {flag}"
    assert len(checked) > 5
