"""A page in, what a real browser says of it out: errors on its console, requests over the network, and a screenshot.

Chromium is Debian's (`apt-get install chromium`); where it is missing the test skips with that reason, and fails when
CI=true: a check that CI never runs would be none.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDE, NARROW = (1280, 900), (390, 844)  # a laptop, and a phone held upright


class Visit(NamedTuple):
    """An open page; the lists fill while it is used."""

    page: "Page"
    errors: list[str]
    requests: list[str]


def require(found: object, what: str) -> None:
    """Skip the test when `what` is not on this machine, fail it where CI=true promises that it is."""
    if found:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is not installed here")


@contextmanager
def visit(path: Path, size: tuple[int, int] = WIDE) -> Iterator[Visit]:
    """Open a local HTML file in headless Chromium, offline; `requests` lists whatever is no file and no data URL."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    require(chromium, "Chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, offline=True)
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
