"""Pages that are files elsewhere in the repository, links to what is not in the documentation, and diagrams as SVG."""

import re
from pathlib import Path
from typing import Any

from diagram import svg

ROOT = Path(__file__).parent.parent
ELSEWHERE = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
MERMAID = re.compile(r"```mermaid\n(.*?)```\n", re.DOTALL)
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page's text: that of a file elsewhere, its links made to lead to pages; a link to code becomes its words.

    Diagrams are drawn here, because Material loads the script that draws Mermaid from elsewhere.
    """
    path = page.file.src_uri
    if path in ELSEWHERE:
        markdown = (ROOT / ELSEWHERE[path]).read_text()

    def replace(match: re.Match[str]) -> str:
        words, target = match[1], match[2]
        folder = ROOT if path in ELSEWHERE else ROOT / "docs"
        inside = (folder / target.partition("#")[0]).resolve()
        if inside.is_relative_to(ROOT / "docs"):
            anchor = "#" + target.partition("#")[2] if "#" in target else ""
            return f"[{words}]({inside.relative_to(ROOT / 'docs').as_posix()}{anchor})"
        moved = {ROOT / file: name for name, file in ELSEWHERE.items()}
        return f"[{words}]({moved[inside]})" if inside in moved else words

    return MERMAID.sub(lambda match: svg(match[1]) + "\n", LINK.sub(replace, markdown))
