"""The page of a conversion, in a real browser: self-contained, readable on a phone, true to the record."""

import base64
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.lerobot.images import decode_image
from common.storage.files import read_json
from stage1_convert.report.page import PAGE, render, write_page
from stage1_convert.report.record import EpisodeRecord, episodes_of, marks_of, worst_first
from stage1_convert.report.thumbnails import frames_shown
from tests.browser import NARROW, WIDE, visit
from tests.stage1_convert.conversion import jpegs, report, run
from tests.stage1_convert.recording import cell, decode, number_in

SIZE = (120, 160)  # as wide as a thumbnail, so that the number drawn into an image stays readable
TASK = 'data.task=Put <b>it</b> & "that" into the box.'
WRIST = "data.cameras={color: /camera/color/image_raw, wrist: /wrist/image_raw}"


def bags(src: Path) -> Path:
    """A whole bag, one with a gap, one without stamps and with a strange name, and one that is refused."""
    for name in ("whole", "kitchen/gap", "<i>&amp;", "blind"):
        recording = cell(seconds=3 if name == "kitchen/gap" else 1.5, seed=len(name), size=SIZE)
        if name == "kitchen/gap":
            del recording.images[30:45]
        if name == "<i>&amp;":
            for said in recording.images:
                said.message.header.stamp.sec = said.message.header.stamp.nanosec = 0
        recording.others = [said._replace(topic="/wrist/image_raw/compressed") for said in recording.images]
        if name == "blind":
            recording.images = []
        recording.write(src / name)
    return src


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    run(bags(folder / "src"), folder / "out", TASK, WRIST)
    return folder / "out"


def all_of(record: Any) -> list[EpisodeRecord]:
    episodes = [episode for bag in record["bags"] for episode in bag["episodes"]]
    return episodes_of(record, [(episode["frames"], "") for episode in episodes])


@pytest.fixture(scope="module")
def page(dataset: Path) -> str:
    return (dataset / PAGE).read_text()


def test_the_conversion_writes_it_and_equal_conversions_give_equal_bytes(dataset: Path, tmp_path: Path) -> None:
    written = (dataset / PAGE).read_bytes()
    run(dataset.parent / "src", tmp_path / "elsewhere", TASK, WRIST, workers=2)
    assert (tmp_path / "elsewhere" / PAGE).read_bytes() == written
    write_page(dataset)
    assert (dataset / PAGE).read_bytes() == written


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_browser_shows_it_without_errors_requests_or_sideways_scrolling(dataset: Path, size: tuple[int, int]) -> None:
    with visit(dataset / PAGE, size) as seen:
        page = seen.page
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.locator("h1").count() == 1
        assert page.evaluate("[...document.images].every(i => i.alt.trim() && i.complete && i.naturalWidth > 0)")
        assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.role === 'img' && s.ariaLabel)") or (
            page.evaluate("[...document.querySelectorAll('svg')].every(s => s.getAttribute('aria-label'))")
        )
        smallest = page.evaluate(
            "Math.min(...[...document.querySelectorAll('body *')].filter(e => e.innerText && e.checkVisibility())"
            ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
        )
        assert smallest >= 11
        assert not seen.errors
        assert not seen.requests


def test_the_keyboard_reaches_the_skip_link_the_tables_and_the_episodes(dataset: Path) -> None:
    with visit(dataset / PAGE, WIDE) as seen:
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the episodes"
        assert seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert seen.page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
        seen.page.keyboard.press("Enter")
        assert seen.page.evaluate("document.activeElement.id") == "episodes"
        links = seen.page.locator("table a")
        targets = links.evaluate_all("links => links.map(a => document.querySelector(a.getAttribute('href')) !== null)")
        assert targets == [True] * 4


def test_text_keeps_its_contrast_in_light_and_dark(dataset: Path) -> None:
    """WCAG AA: 4.5 to 1, against the first background that is not transparent."""
    script = """() => {
      const lum = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => { x /= 255;
          return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; });
        return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
      let worst = 21;
      for (const e of document.querySelectorAll('p,span,td,th,li,dt,dd,small,h1,h2,h3,h4,a,figcaption')) {
        if (!e.innerText || !e.checkVisibility() || e.className === 'skip') continue;
        let at = e, back = 'rgba(0, 0, 0, 0)';
        while (at && back === 'rgba(0, 0, 0, 0)') { back = getComputedStyle(at).backgroundColor; at = at.parentElement; }
        const [a, b] = [lum(getComputedStyle(e).color), lum(back)].sort((x, y) => y - x);
        worst = Math.min(worst, (a + .05) / (b + .05));
      }
      return worst; }"""
    with visit(dataset / PAGE, WIDE) as seen:
        for scheme in ("light", "dark"):
            seen.page.emulate_media(color_scheme=scheme)
            assert seen.page.evaluate(script) >= 4.5


def test_it_says_what_was_refused_and_which_clocks_were_taken(page: str, dataset: Path) -> None:
    (refused,) = [bag for bag in report(dataset)["bags"] if bag["status"] == "refused"]
    text = unescape(page)
    assert refused["reason"] in text
    assert "1 bag could not be converted" in text
    assert "45 of 45 header stamps are zero (1 bag)" in text
    assert re.search(r"gap of 0\.\d\d s beside it: nothing from color, wrist", text)


def test_names_and_tasks_are_text_and_never_markup(page: str) -> None:
    assert "<b>it</b>" not in page
    assert "<i>&amp;<" not in page
    assert "Put &lt;b&gt;it&lt;/b&gt; &amp; &quot;that&quot; into the box." in page
    assert "&lt;i&gt;&amp;amp;" in page
    assert "<script" not in page


def test_the_totals_are_the_records(page: str, dataset: Path) -> None:
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>([\d,]+)<", page))
    episodes = [episode for bag in report(dataset)["bags"] for episode in bag["episodes"]]
    assert tiles["Bags converted"] == "3"
    assert tiles["Episodes"] == str(len(episodes)) == "4"
    assert tiles["Frames"] == str(sum(episode["frames"] for episode in episodes))
    assert tiles["Gaps"] == "1"
    for name, key in (("Images held", "held"), ("Images dropped", "dropped")):
        assert int(tiles[name]) == sum(episode[key][c] for episode in episodes for c in ("color", "wrist"))


def test_the_film_shows_the_frames_it_says(page: str, dataset: Path) -> None:
    numbers = [number_in(decode(data)) for data in jpegs(dataset)]
    start = 0
    for index, episode in enumerate(e for bag in report(dataset)["bags"] for e in bag["episodes"]):
        pattern = rf'<img src="data:image/jpeg;base64,([^"]+)"[^>]*alt="Episode {index}, camera color, at ([\d.]+) s"'
        shown = re.findall(pattern, page)
        wanted = frames_shown(episode["frames"])
        assert [seconds for _, seconds in shown] == [f"{frame / 30:.1f}" for frame in wanted]
        images = [decode_image(base64.b64decode(data)) for data, _ in shown]
        assert [number_in(image) for image in images] == [numbers[start + frame] for frame in wanted]
        start += episode["frames"]


def test_the_episode_beside_the_gap_comes_first(page: str, dataset: Path) -> None:
    record = read_json(dataset / "meta" / "conversion.json")
    ranked = worst_first(all_of(record), 30)
    assert ranked[0][0].bag["bag"] == "kitchen/gap"
    assert [one.number for one, _ in ranked] == [
        int(n) for n in re.findall(r'<article class="card" id="episode-(\d+)"', page)
    ]
    weights = [sum(mark.weight for mark in marks) for _, marks in ranked]
    assert weights == sorted(weights, reverse=True)


def test_frames_without_a_new_image_are_told_apart_from_jitter(dataset: Path) -> None:
    record = read_json(dataset / "meta" / "conversion.json")
    told = all_of(record)[0]
    facts = {"age_ms": {}, "held": {"color": 9}, "dropped": {"color": 0}, "repeated": {"color": 0}}
    quiet = told._replace(frames=45, facts=facts, bag={**told.bag, "gaps": [], "warnings": []})
    assert [mark.text for mark in marks_of(quiet, 30)] == ["color: 9 of 45 frames have no new image: none was recorded"]
    jittery = quiet._replace(facts={**facts, "dropped": {"color": 9}})
    assert "9 frames repeat an image while as many" in marks_of(jittery, 30)[0].text
    fast = quiet._replace(facts={**facts, "held": {"color": 0}, "dropped": {"color": 45}})
    assert not marks_of(fast, 30)


def test_a_large_dataset_shows_the_worst_and_says_how_many_it_does_not(dataset: Path) -> None:
    small = render(dataset, cards=1)
    assert small.count("<article") == 1
    assert "The worst 1 of 4; 3 more are in the table only." in small
    assert len(re.findall(r'<tr><th scope="row">', small)) == 4
    assert len(small) < 0.5 * len(render(dataset, cards=4))


def test_long_episodes_give_short_curves_that_keep_their_extremes() -> None:
    from stage1_convert.report.charts import WIDTH, Curve, figure

    values = np.zeros(100_000)
    values[54_321], values[77_777] = 1.0, -1.0
    html = figure("joint", [Curve(values, "state", "rad")])
    assert len(html) < 5_000
    heights = {float(y) for y in re.findall(r"[ML]\d+ ([\d.]+)", html)}
    assert {min(heights), max(heights)} == {2.0, 54.0}
    assert f"{54_321 / 99_999 * WIDTH:.0f} 2.0" in html


def test_videos_are_shown_as_well(tmp_path: Path) -> None:
    cell(size=(96, 160)).write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out", "data.storage=video")
    shown = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', (tmp_path / "out" / PAGE).read_text())
    assert len(shown) == 8
    assert decode_image(base64.b64decode(shown[0])).shape == (96, 160, 3)


def test_images_lost_to_jitter_have_their_way_out_until_it_is_taken(tmp_path: Path) -> None:
    cell(3.0, seed=2).write(tmp_path / "src" / "bag")  # 0 to 3 ms of jitter, and a grid that begins within them
    hint = "data.grid_delay_ms"
    for delay_ms, told in ((0, True), (17, False)):
        run(tmp_path / "src", tmp_path / f"{delay_ms}", f"data.grid_delay_ms={delay_ms}")
        page = (tmp_path / f"{delay_ms}" / PAGE).read_text()
        assert (hint in page.split("</div>")[0]) == told
        assert ("(jitter)" in page) == told
