"""Pages in a real browser: what every page we write must fulfill, and a way to open one and look further.

Chromium is Debian's (`apt-get install chromium`); where it is missing the test skips with that reason, and fails when
CI=true: a check that CI never runs would be none.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
WIDE, NARROW = (1280, 900), (390, 844)  # a laptop, and a phone held upright
VOID = ("img", "meta", "link", "br", "wbr", "line", "path", "rect", "input")  # need no end tag, or close themselves
# Returns what is wrong with a page and axe-core does not look for, one line each.
FLAWS = """() => {
  const all = selector => [...document.querySelectorAll(selector)], flaws = [];
  const say = (what, elements) => { if (elements.length) flaws.push(what + ': ' + elements[0].outerHTML.slice(0, 200)); };
  const root = document.documentElement;
  if (root.scrollWidth > window.innerWidth) flaws.push('scrolls sideways to ' + root.scrollWidth);
  say('loads something', all('link:not([href^="data:"]), iframe, [src]:not([src^="data:"])'));
  say('image without a text or broken', all('img').filter(i => !i.alt.trim() || !i.complete || !i.naturalWidth));
  say('drawing without a name', all('svg:not([aria-hidden=true])').filter(s => !s.getAttribute('aria-label')));
  say('table without a name', all('table').filter(t => !t.getAttribute('aria-label')));
  const ids = all('[id]').map(e => e.id);
  say('id that is taken', all('[id]').filter((e, place) => ids.indexOf(e.id) !== place));
  say('link to nowhere', all('a[href^="#"]').filter(a => !ids.includes(a.getAttribute('href').slice(1))));
  const hasText = e => [...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim());
  const texts = all('body *').filter(
    e => e instanceof HTMLElement && hasText(e) && e.checkVisibility() && e.className !== 'skip');
  say('text below 11 px', texts.filter(e => parseFloat(getComputedStyle(e).fontSize) < 11));
  return flaws; }"""


class Visit(NamedTuple):
    """An open page; the lists fill while it is used."""

    page: "Page"
    errors: list[str]
    requests: list[str]


class _Tags(HTMLParser):
    """Checks that every element is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def require(found: object, what: str) -> None:
    """Skip the test when `what` is not on this machine, fail it where CI=true promises that it is."""
    if found:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is not installed here")


@contextmanager
def visit(path: Path, size: tuple[int, int] = WIDE, scripts: bool = True) -> Iterator[Visit]:
    """Open a local HTML file in headless Chromium, offline; `requests` lists whatever is no file and no data URL."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    require(chromium, "Chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        viewport: ViewportSize = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=viewport, offline=True, java_script_enabled=scripts)
        page = context.new_page()
        errors: list[str] = []
        requests: list[str] = []
        page.on(
            "console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else requests.append(r.url))
        page.goto(path.resolve().as_uri(), wait_until="load")
        yield Visit(page, errors, requests)
        browser.close()


def check_page(path: Path) -> None:
    """Assert what holds for every page we write: it needs nothing but itself, and everybody can read it.

    On a laptop in light and on a phone in dark, with everything closed and with everything open; by keyboard and by screen
    reader. Skips the test where axe-core, which knows what those need, is not installed.
    """
    require(AXE.exists(), "axe-core (npm ci --prefix tests/axe)")
    tags = _Tags()
    tags.feed(path.read_text())
    assert tags.open == []
    with visit(path) as seen:
        for (width, height), scheme in ((WIDE, "light"), (NARROW, "dark")):
            seen.page.set_viewport_size({"width": width, "height": height})
            seen.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            seen.page.reload()
            assert seen.page.evaluate(FLAWS) == []
            seen.page.evaluate("document.querySelectorAll('details').forEach(node => node.open = true)")
            assert seen.page.evaluate(FLAWS) == []
            seen.page.add_script_tag(path=AXE)
            violations = seen.page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
            assert [(broken["id"], broken["nodes"][0]["html"]) for broken in violations] == []
        seen.page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
        seen.page.reload()
        active = "document.activeElement"
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate(f"{active}.textContent") == "Skip to the verdict"
        assert seen.page.evaluate(f"getComputedStyle({active}).outlineStyle") == "solid"
        assert seen.page.evaluate(f"{active}.getBoundingClientRect().left >= 0")
        seen.page.keyboard.press("Enter")
        assert seen.page.evaluate(f"{active}.id") == "verdict"
        reached = set()
        for _ in range(seen.page.locator("a, summary, [tabindex='0']").count()):
            seen.page.keyboard.press("Tab")
            reached.add(seen.page.evaluate(f"{active}.tagName"))
        assert reached >= {"A", "DIV"}  # links, and tables to scroll
        assert seen.page.locator("main > *").first.get_attribute("id") == "verdict"
    assert (seen.errors, seen.requests) == ([], [])
