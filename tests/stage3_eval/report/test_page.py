"""The page says what the summary says, verdict first."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.lerobot.metadata import Episode
from common.report.formatting import MINUS, angle
from stage3_eval.__main__ import main
from stage3_eval.metrics.scores import Moment
from stage3_eval.metrics.summary import VALID_HORIZON, Summary
from stage3_eval.output import read_summary
from stage3_eval.report.console import WIDTH, report
from stage3_eval.report.gallery import BEST_DRAWN, MAX_DRAWN, choose_drawn
from stage3_eval.report.player import LEAST_IMAGES, MOST_IMAGES, PAGE_IMAGES, images_per_episode
from stage3_eval.report.verdict import describe_baseline, verdict
from tests.browser import check_page, visit
from tests.stage3_eval.conftest import Sweep
from tests.stage3_eval.summaries import make_summary


@pytest.fixture(scope="module")
def out(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of the simulated cell with everything the page can show."""
    out = tmp_path_factory.mktemp("page") / "out"
    argv: list[object] = ["--checkpoint", sweep.runs["fast"], "--dataset", sweep.dataset, "--out", out]
    argv += ["--episodes", "0-1", "--attention", 2, "--max-joint-speed", 0.3, "--latency-steps", 5, "--device", "cpu"]
    assert main([str(word) for word in argv]) == 0
    return out


@pytest.fixture
def summary(out: Path) -> Summary:
    return read_summary(out)


def test_the_console_calls_the_baselines_as_the_page_does(out: Path, summary: Summary) -> None:
    lines = report(summary).splitlines()[3:]
    head = lines[: next(at for at, line in enumerate(lines) if line.startswith(summary.joint_names[0]))]
    start = len(head[0]) - WIDTH * (1 + len(summary.baselines))
    columns = [
        " ".join(line[at : at + WIDTH].strip() for line in head).strip() for at in range(start, len(head[0]), WIDTH)
    ]
    page = (out / "report.html").read_text()
    assert columns == ["policy", *map(describe_baseline, summary.baselines)]
    assert all(f'<th scope="row">{name}</th>' in page for name in columns[1:])


@pytest.mark.browser
def test_it_stands_alone_and_everybody_can_read_it(out: Path) -> None:
    check_page(out / "report.html")
    assert (out / "report.html").stat().st_size < 1_500_000


@pytest.mark.browser
@pytest.mark.slow
def test_the_verdict_comes_first_and_is_the_summarys(out: Path, summary: Summary) -> None:
    with visit(out / "report.html") as opened:
        answer, text = opened.page.inner_text("#verdict h2"), opened.page.inner_text("#verdict")
    assert answer == verdict(summary, VALID_HORIZON).answer
    assert f"{summary.ratio_to_best_baseline[VALID_HORIZON]:.2f}" in answer
    assert "Training saw some of these episodes" in text


@pytest.mark.browser
@pytest.mark.slow
def test_the_tables_hold_the_summarys_numbers(out: Path, summary: Summary) -> None:
    with visit(out / "report.html") as opened:
        page = opened.page
        assert angle(summary.policy.valid_horizon.mae, "rad") in page.locator("#baselines tbody tr").first.inner_text()
        assert page.locator("#baselines tbody tr").count() == 1 + len(summary.baselines)
        assert page.locator("#joints tbody tr").count() == 6
        robot = page.inner_text("#robot")
    for words in (
        "delta",
        "each chunk from the measured position",
        "from the last commanded position",
        "frames over it",
    ):
        assert words in robot


@pytest.mark.browser
@pytest.mark.slow
def test_every_episode_leads_to_its_details_and_its_file(out: Path) -> None:
    with visit(out / "report.html") as opened:
        page, details = opened.page, opened.page.locator("details.episode")
        assert [details.nth(place).get_attribute("open") for place in range(2)] == ["", None]
        page.click("#episodes tbody a[href='#episode-1']")
        assert details.nth(1).get_attribute("open") == ""  # a link opens what it leads to
        assert details.nth(1).locator(".heat img").count() == 1
        assert details.nth(1).locator("figure svg").count() == 2 * 6  # actions, and positions
    files = set(re.findall(r'href="([^"#:]+)"', (out / "report.html").read_text()))
    assert files == {f"episode_{number:03d}.parquet" for number in range(2)}
    assert all((out / file).is_file() for file in files)


@pytest.mark.browser
@pytest.mark.slow
def test_worst_moments_show_attribution_for_as_many_as_asked_for(out: Path) -> None:
    with visit(out / "report.html") as opened:
        page = opened.page
        assert page.locator(".moment").count() == 6
        assert page.locator('.moment img[alt^="Input attribution, camera color"]').count() == 2
        assert page.locator('.moment img[alt^="Camera color, episode"]').count() == 6


@pytest.mark.browser
@pytest.mark.slow
def test_hovering_over_a_curve_shows_the_values_of_all_joints_and_the_image_at_that_time(
    out: Path, summary: Summary
) -> None:
    recorded = pd.read_parquet(out / "episode_000.parquet")
    with visit(out / "report.html") as opened:
        player = opened.page.locator(".player").first
        plot = player.locator(".values .plot").nth(2)
        box = plot.bounding_box()
        assert box is not None
        last = len(recorded) - 1
        plot.hover(position={"x": box["width"] * 20.1 / last, "y": 5})
        assert player.locator(".time").inner_text() == f"{20 / summary.fps:.2f} s, frame 20"
        values = player.locator(".value").all_inner_texts()
        for joint, value in zip(summary.joint_names, values, strict=True):
            numbers = [float(number) for number in re.findall(r"[-\d.e]+(?=°)", value.replace(MINUS, "-"))]
            wanted = np.degrees([recorded[f"{kind}_{joint}"][20] for kind in ("gt_action", "predicted_action")])
            assert numbers == pytest.approx(wanted, rel=0.01, abs=0.001)
        label = player.locator(".frame").get_attribute("aria-label")
        assert label == f"Camera color at {20 / summary.fps:.2f} s"  # 59 frames: all of them are there
        position = player.locator(".frame").evaluate("node => node.style.backgroundPosition")
        assert position.startswith(f"{100 * 20 / last:.3f}"[:5])
        player.locator("input").press("ArrowRight")
        assert player.locator(".time").inner_text().endswith("frame 21")
        assert (opened.errors, opened.requests) == ([], [])


@pytest.mark.browser
@pytest.mark.slow
def test_every_worst_moment_leads_to_its_frame(out: Path, summary: Summary) -> None:
    with visit(out / "report.html") as opened:
        page = opened.page
        for link in page.locator(".moment h3 a").all():
            number, seconds = re.fullmatch(r"episode (\d), ([\d.]+) s", link.inner_text()).groups()  # type: ignore[union-attr]
            link.click()
            player = page.locator(f"#actions-{number} + .player")
            assert player.is_visible()
            frame = round(float(seconds) * summary.fps)
            assert player.locator(".time").inner_text() == f"{seconds} s, frame {frame}"


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_is_whole_without_its_script_and_on_paper(out: Path) -> None:
    with visit(out / "report.html", scripts=False) as opened:
        page = opened.page
        assert not page.locator(".controls").first.is_visible()
        assert page.locator(".film").first.is_visible()
        assert page.locator(".player figure svg").first.is_visible()
    with visit(out / "report.html") as opened:
        assert opened.page.locator(".controls").first.is_visible()
        opened.page.emulate_media(media="print")
        assert not opened.page.locator(".controls").first.is_visible()


def test_the_small_images_of_a_page_are_bounded() -> None:
    assert images_per_episode(1, 1) == MOST_IMAGES
    assert images_per_episode(12, 2) * 12 * 2 <= PAGE_IMAGES
    assert images_per_episode(12, 8) == LEAST_IMAGES
    assert images_per_episode(12, 0) == MOST_IMAGES  # a policy without cameras has none to show


def moment(number: int) -> Moment:
    return Moment(Episode(number, 0, 2, (0, 0), {}), 0, 1.0, np.zeros((1, 1), np.float32))


def test_of_many_episodes_the_worst_a_few_of_the_best_and_those_of_the_moments_are_drawn() -> None:
    assert choose_drawn(make_summary(range(MAX_DRAWN)).by_episode, []) == list(range(MAX_DRAWN))
    many = make_summary(range(1000)).by_episode
    drawn = choose_drawn(many, [])
    assert drawn[: MAX_DRAWN - BEST_DRAWN] == list(range(999, 999 - MAX_DRAWN + BEST_DRAWN, -1))
    assert sorted(drawn[-BEST_DRAWN:]) == [0, 1, 2]
    drawn = choose_drawn(many, [moment(500), moment(999), moment(1)])
    assert drawn == [*range(999, 999 - MAX_DRAWN + BEST_DRAWN + 1, -1), 500, 2, 1, 0]


@pytest.mark.parametrize(
    ("ratio", "level", "answer"),
    [
        (0.5, "good", "Better than every baseline: 0.50 times the error of not moving"),
        (1.0, "bad", "Not better than the best baseline: 1.00 times the error of not moving"),
        (None, "warn", "No verdict: not moving makes no error at all; do these episodes move?"),
    ],
)
def test_the_verdict_has_three_cases(ratio: float | None, level: str, answer: str) -> None:
    best = dict.fromkeys(("first_step", "valid_horizon"), "zero_action")
    summary = make_summary([1.0], best_baseline=best, ratio_to_best_baseline=dict.fromkeys(best, ratio))
    assert verdict(summary, "valid_horizon") == (level, answer)
    where = "" if ratio is None else " at the first step"
    assert verdict(summary, "first_step").answer == answer + where
