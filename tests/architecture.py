"""`python -m tests.architecture` draws the pictures of docs/architecture.md again, from the imports as they are."""

import re
from collections.abc import Iterator

import grimp

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("common", "stage1_convert", "stage2_train", "stage3_eval", "osmo", "demo", "bench")
EVERYBODY_MAY = {"config"}  # arrows to it would only hide the others


def diagrams() -> Iterator[tuple[str, str]]:
    """Yield (name, Mermaid text) of every picture: the packages, then the rooms of those that have some."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    yield "packages", _draw(_arrows(graph, PACKAGES, 1))
    for package in ("common", "stage1_convert", "stage3_eval", "osmo"):
        rooms = sorted(graph.find_children(package))
        yield package, _draw(_arrows(graph, rooms, 2))


def redrawn(page: str) -> str:
    """Return the text of the page with every picture as the imports have it now."""
    for name, text in diagrams():
        block = re.compile(rf"(<!-- picture: {name} -->\n)```mermaid\n.*?```\n", re.DOTALL)
        page, count = block.subn(lambda match, text=text: f"{match[1]}```mermaid\n{text}```\n", page)  # type: ignore[misc]
        assert count == 1, f"docs/architecture.md has no place for the picture of {name}"
    return page


def _arrows(graph: grimp.ImportGraph, rooms: tuple[str, ...] | list[str], depth: int) -> list[tuple[str, str]]:
    """Return who imports whom among rooms, each a module with all below it."""
    found = set()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            pair = [".".join(module.split(".")[:depth]) for module in (importer, imported)]
            if pair[0] != pair[1] and all(room in rooms for room in pair):
                found.add((_short(pair[0]), _short(pair[1])))
    return sorted(pair for pair in found if pair[1] not in EVERYBODY_MAY and pair[0] not in EVERYBODY_MAY)


def _short(module: str) -> str:
    return module.rpartition(".")[2].replace("__main__", "command")


def _draw(arrows: list[tuple[str, str]]) -> str:
    return "flowchart TD\n" + "".join(f"    {importer} --> {imported}\n" for importer, imported in arrows)


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text()))
