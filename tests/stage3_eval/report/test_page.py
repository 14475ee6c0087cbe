"""The page says what the summary says, to everybody: offline, on a phone, by keyboard and by screen reader."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stage3_eval.__main__ import main
from stage3_eval.metrics.summary import VALID_HORIZON
from stage3_eval.report.formatting import amount, both, number, share, times, verdict
from stage3_eval.report.gallery import BEST_SHOWN, MAX_SHOWN, choose_shown
from tests.browser import NARROW, WIDE, visit
from tests.stage3_eval.conftest import Sweep


@pytest.fixture(scope="module")
def out(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes of the simulated cell with everything the page can show."""
    out = tmp_path_factory.mktemp("page") / "out"
    argv: list[object] = ["--checkpoint", sweep.runs["fast"], "--dataset", sweep.dataset, "--out", out]
    argv += ["--episodes", "0-3", "--attention", 2, "--max-joint-speed", 0.3, "--latency-steps", 5, "--device", "cpu"]
    assert main([str(word) for word in argv]) == 0
    return out


def summary_of(out: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_it_opens_offline_without_complaint_and_fits_the_screen(out: Path, size: tuple[int, int]) -> None:
    with visit(out / "report.html", size) as opened:
        page = opened.page
        for part in page.locator("details").all():
            part.evaluate("node => node.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
        assert page.evaluate(broken) == 0
        assert page.evaluate("document.images.length") > 40
        assert page.locator("script").count() == 0
    assert (opened.errors, opened.requests) == ([], [])


def test_the_verdict_comes_first_and_is_the_summarys(out: Path) -> None:
    summary = summary_of(out)
    with visit(out / "report.html") as opened:
        page = opened.page
        shown = page.inner_text("#verdict strong")
        assert shown == verdict(summary, VALID_HORIZON)
        assert f"{summary['ratio_to_best_baseline'][VALID_HORIZON]:.2f}" in shown
        assert page.locator("main > *").first.get_attribute("id") == "verdict"
        assert "Training saw some of these episodes" in page.inner_text("#verdict")
        row = page.locator("#baselines tbody tr").first.inner_text()
        assert amount(summary["policy"][VALID_HORIZON]["mae"], "rad") in row
        assert page.locator("#baselines tbody tr").count() == 1 + len(summary["baselines"])
        assert page.locator("#joints tbody tr").count() == 6
        robot = page.inner_text("#robot")
        for words in (
            "delta",
            "from the last commanded position",
            "each chunk from the measured position",
            "frames over it",
        ):
            assert words in robot


def test_links_lead_somewhere(out: Path) -> None:
    text = (out / "report.html").read_text()
    ids = set(re.findall(r'id="([^"]+)"', text))
    targets = re.findall(r'href="([^"]+)"', text)
    assert {target[1:] for target in targets if target.startswith("#")} <= ids
    files = {target for target in targets if not target.startswith(("#", "data:"))}
    assert files == {f"episode_{number:03d}.parquet" for number in range(4)}
    assert all((out / file).is_file() for file in files)


class Reader(HTMLParser):
    """What a screen reader needs: names of images and tables, and headings in order."""

    def __init__(self) -> None:
        super().__init__()
        self.unnamed: list[str] = []
        self.headings: list[int] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        is_hidden = of.get("aria-hidden") == "true"
        named = {"img": "alt", "svg": "aria-label", "table": "aria-label", "html": "lang", "nav": "aria-label"}
        if tag in named and not of.get(named[tag]) and not is_hidden:
            self.unnamed.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in ("img", "meta", "link", "br", "wbr", "line", "polyline", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "polyline", "rect"):
            assert self.open.pop() == tag


def test_a_screen_reader_finds_names_and_order(out: Path) -> None:
    reader = Reader()
    reader.feed((out / "report.html").read_text())
    assert reader.open == []  # every element is closed, in order
    assert reader.unnamed == []
    assert reader.headings[0] == 1
    assert all(after - before <= 1 for before, after in zip(reader.headings, reader.headings[1:], strict=False))


def test_the_keyboard_reaches_every_part(out: Path) -> None:
    with visit(out / "report.html", NARROW) as opened:
        page = opened.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the result"
        seen = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            seen.add(page.evaluate("document.activeElement.tagName"))
        assert {"A", "SUMMARY", "DIV"} <= seen  # links, episodes to open, tables to scroll
        second = page.locator("details > summary").nth(3)
        before = page.locator("details[open]").count()
        second.focus()
        page.keyboard.press("Enter")
        assert page.locator("details[open]").count() == before + 1


def test_worst_moments_show_what_mattered_in_as_many_images_as_asked_for(out: Path) -> None:
    with visit(out / "report.html") as opened:
        page = opened.page
        assert page.locator(".moment").count() == 6
        assert page.locator('.moment img[alt^="What mattered in camera"]').count() == 2
        assert page.locator('.moment img[alt^="Camera color, episode"]').count() == 6


def test_the_page_is_small(out: Path) -> None:
    assert (out / "report.html").stat().st_size < 1_500_000


def test_of_many_episodes_the_worst_and_a_few_of_the_best_are_drawn() -> None:
    few = [{"episode_index": i, "policy": {VALID_HORIZON: {"mae": float(i)}}} for i in range(MAX_SHOWN)]
    assert choose_shown(few) == list(range(MAX_SHOWN))
    many = [{"episode_index": i, "policy": {VALID_HORIZON: {"mae": float(i)}}} for i in range(1000)]
    shown = choose_shown(many)
    assert shown[: MAX_SHOWN - BEST_SHOWN] == list(range(999, 999 - MAX_SHOWN + BEST_SHOWN, -1))
    assert sorted(shown[-BEST_SHOWN:]) == [0, 1, 2]


def test_numbers_are_written_for_people() -> None:
    assert [number(value) for value in (0.00012345, 1234.5, 0.0, -2.5, None)] == [
        "0.000123",
        "1230",
        "0",
        "-2.5",
        "&ndash;",
    ]
    assert amount(0.01, "rad") == "0.57°"
    assert amount(0.01, "the dataset's units") == "0.01"
    assert both(0.01, "rad") == '0.57° <span class="unit">0.01 rad</span>'
    assert [times(1.234), times(None)] == ["1.2 &times;", "&ndash;"]
    assert [share(value) for value in (0, 0.0001, 0.5)] == ["0 %", "under 0.1 %", "50.0 %"]
