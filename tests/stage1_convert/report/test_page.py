"""The page of a conversion is true to its record and to its dataset."""

import base64
import re
from html import unescape
from pathlib import Path

import pytest

from common.lerobot.dataset import Dataset
from common.lerobot.images import decode_image
from common.report.images import film_frames
from stage1_convert.dataset.record import ConversionRecord, LeftOut, read_record
from stage1_convert.report.episode import describe_episode, read_sync, sample_ages_ms
from stage1_convert.report.issues import EpisodeReport, report_episodes, report_left_out, worst_first
from stage1_convert.report.page import PAGE, draw_page
from tests.browser import check_page, visit
from tests.stage1_convert.conversion import convert_one, jpegs, run
from tests.stage1_convert.recording import cell, decode, number_in

SIZE = (120, 160)  # as wide as an image of a film, so that the number drawn into it stays readable
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


@pytest.fixture(scope="module")
def page(dataset: Path) -> str:
    return (dataset / PAGE).read_text()


@pytest.fixture(scope="module")
def record(dataset: Path) -> ConversionRecord:
    record = read_record(dataset)
    assert record is not None
    return record


@pytest.mark.browser
def test_it_stands_alone_and_everybody_can_read_it(dataset: Path) -> None:
    check_page(dataset / PAGE)


def test_it_says_what_was_left_out_and_why(page: str, record: ConversionRecord) -> None:
    (gap_bag,) = [bag for bag in record.bags if bag.gaps]
    (gap,) = report_left_out(record)
    assert gap == (gap_bag.bag, "a gap: nothing from color, wrist", 1, gap_bag.gaps[0].frames)
    idle = [LeftOut(start_ns=0, frames=frames, reason="idle") for frames in (70, 8)]
    others = [LeftOut(start_ns=0, frames=9, reason="not_chosen")]
    bag = gap_bag.model_copy(update={"left_out": [*idle, *others]})
    reports = report_left_out(record.model_copy(update={"bags": [bag]}))
    assert [(report.spans, report.frames) for report in reports] == [(2, 78), (1, gap.frames), (1, 9)]
    assert "data.trim_idle_s" in reports[0].reason
    section = page[page.index('id="left-out"') :]
    assert "a gap: nothing from color, wrist" in section[: section.index("</section>")]


def test_repeated_images_and_their_ages_are_drawn(tmp_path: Path) -> None:
    recording = cell(seconds=2, seed=3, size=SIZE)
    del recording.images[40], recording.images[20]
    dataset = convert_one(tmp_path, recording)
    record, opened = read_record(dataset), Dataset.open(dataset)
    assert record is not None
    (report,) = report_episodes(record, 30)
    details = describe_episode(report, record, opened)
    numbers = [number_in(decode(data)) for data in jpegs(dataset)]
    repeated = [frame for frame in range(1, len(numbers)) if numbers[frame] == numbers[frame - 1]]
    plot = details.timelines["color"]
    assert len(repeated) == report.repeated == 2
    assert [round(bar.x * len(numbers) / 1000) for bar in plot.bars if bar.kind == "repeated"] == repeated
    assert plot.label == f"Camera color: 2 frames of {len(numbers)} with the image of the frame before"
    ages = sample_ages_ms(read_sync(opened, 0), "color")
    page = (dataset / PAGE).read_text()
    assert [figure.caption for figure in details.ages] == ["joints (hold)", "color (in order)"]
    histogram = page[page.index("Camera color: number of frames by the age") :]
    assert "oldest" in histogram[: histogram.index("</figure>")]
    assert ages.max() == pytest.approx(report.entry.age_ms["color"].max, abs=0.001)


def test_images_that_no_frame_shows_are_drawn_before_the_next_one(tmp_path: Path) -> None:
    cell(seconds=2, seed=3, size=SIZE).write(tmp_path / "src" / "bag")
    run(tmp_path / "src", tmp_path / "out", "data.fps=20", "data.resample=hold")
    record, opened = read_record(tmp_path / "out"), Dataset.open(tmp_path / "out")
    assert record is not None
    (report,) = report_episodes(record, 20)
    plot = describe_episode(report, record, opened).timelines["color"]
    numbers = [number_in(decode(data)) for data in jpegs(tmp_path / "out")]
    after_others = [frame for frame in range(1, len(numbers)) if numbers[frame] - numbers[frame - 1] > 1]
    assert len(after_others) > 10
    assert [round(bar.x * len(numbers) / 1000) for bar in plot.bars if bar.kind == "passed-over"] == after_others
    assert plot.label.endswith(f", {report.passed_over} images passed over")
    page = (tmp_path / "out" / PAGE).read_text()
    assert "images passed over before this frame" in page
    assert "frames that repeat the image" not in page


def test_images_identical_to_the_one_before_are_an_issue_only_when_they_are_most(record: ConversionRecord) -> None:
    bag = next(bag for bag in record.bags if bag.is_converted)
    for identical, said in (
        (22, []),
        (23, ["color: 23 of 45 images are identical to the one before: does the camera hang?"]),
    ):
        entry = bag.episodes[0].model_copy(update={"frames": 45, "age_ms": {}, "identical": {"color": identical}})
        quiet = bag.model_copy(update={"gaps": [], "warnings": [], "episodes": [entry]})
        (report,) = report_episodes(record.model_copy(update={"bags": [quiet]}), 30)
        assert [issue.text for issue in report.issues] == said
        assert report.identical == identical


def test_names_and_tasks_are_text_and_never_markup(page: str) -> None:
    assert "<b>it</b>" not in page
    assert "<i>&amp;<" not in page
    assert "Put &lt;b&gt;it&lt;/b&gt; &amp; &#34;that&#34; into the box." in page
    assert "&lt;i&gt;&amp;amp;" in page


def test_it_says_what_was_refused_and_which_clocks_were_taken(page: str, record: ConversionRecord) -> None:
    (refused,) = [bag for bag in record.bags if not bag.is_converted]
    text = unescape(page)
    assert refused.reason is not None
    assert refused.reason in text
    assert "Not every bag was converted" in text
    assert "1 bag could not be converted" in text
    assert "45 of 45 header stamps are zero (1 bag)" in text
    assert re.search(r"gap of 0\.\d\d s next to it: nothing from color, wrist", text)


def test_the_totals_are_the_records(page: str, record: ConversionRecord) -> None:
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>([\d,]+)<", page))
    episodes = [episode for bag in record.bags for episode in bag.episodes]
    assert tiles["Bags converted"] == "3"
    assert tiles["Episodes"] == str(len(episodes)) == "4"
    assert tiles["Frames"] == str(sum(episode.frames for episode in episodes))
    assert tiles["Gaps"] == "1"
    cameras = ("color", "wrist")
    for title, counts in (
        ("repeated", [e.repeated for e in episodes]),
        ("passed over", [e.passed_over for e in episodes]),
    ):
        assert int(tiles[f"Images {title}"]) == sum(count[camera] for count in counts for camera in cameras)


def test_a_film_shows_the_frames_it_says(page: str, dataset: Path, record: ConversionRecord) -> None:
    numbers = [number_in(decode(data)) for data in jpegs(dataset)]
    start = 0
    for report in report_episodes(record, 30):
        pattern = (
            rf'<img src="data:image/jpeg;base64,([^"]+)"[^>]*alt="Episode {report.number}, camera color, at ([\d.]+) s"'
        )
        shown, wanted = re.findall(pattern, page), film_frames(report.entry.frames)
        assert [seconds for _, seconds in shown] == [f"{frame / 30:.1f}" for frame in wanted]
        images = [decode_image(base64.b64decode(data)) for data, _ in shown]
        assert [number_in(image) for image in images] == [numbers[start + frame] for frame in wanted]
        start += report.entry.frames


def test_the_episode_next_to_the_gap_comes_first(page: str, record: ConversionRecord) -> None:
    ranked = worst_first(report_episodes(record, 30))
    assert ranked[0].bag.bag == "kitchen/gap"
    assert [report.number for report in ranked] == [int(n) for n in re.findall(r'<div [^>]*id="episode-(\d+)"', page)]
    weights = [report.weight for report in ranked]
    assert weights == sorted(weights, reverse=True)


@pytest.mark.browser
@pytest.mark.slow
def test_a_link_opens_the_details_of_its_episode(dataset: Path) -> None:
    with visit(dataset / PAGE) as seen:
        seen.page.evaluate("document.querySelectorAll('details.episode').forEach(node => node.open = false)")
        seen.page.click("#episodes tbody a[href='#episode-3']")
        assert seen.page.locator("details.episode[open]").count() == 1
        assert seen.page.locator("details.episode[open] #episode-3").is_visible()


def test_frames_without_a_new_image_are_told_apart_from_avoidable_repeats(record: ConversionRecord) -> None:
    def issues(repeated: int, passed_over: int, excess: int) -> list[str]:
        counts = {"repeated": repeated, "passed_over": passed_over, "excess": excess}
        bag = next(bag for bag in record.bags if bag.is_converted)
        by_camera = {name: {"color": count} for name, count in counts.items()}
        entry = bag.episodes[0].model_copy(update={"frames": 45, "age_ms": {}, "identical": {}, **by_camera})
        quiet = bag.model_copy(update={"gaps": [], "warnings": [], "episodes": [entry]})
        (report,) = report_episodes(record.model_copy(update={"bags": [quiet]}), 30)
        return [issue.text for issue in report.issues]

    assert issues(9, 0, 0) == ["color: 9 of 45 frames have no new image: none was recorded"]
    assert issues(9, 9, 9) == [
        "color: 9 frames repeat an image and 9 images are in no frame: 9 more than the camera lost and its rate makes "
        "unavoidable"
    ]
    assert issues(2, 2, 2) == []
    assert issues(0, 45, 0) == []  # a camera that is faster than the frames


def test_a_large_dataset_shows_the_worst_and_says_how_many_it_does_not(dataset: Path) -> None:
    small = draw_page(dataset, detailed=1)
    assert small.count('<details class="episode"') == 1
    assert "The worst 1 of 4; the others are in the table only." in small
    assert len(re.findall(r'<tr><th scope="row">(?:<a [^>]*>)?\d', small)) == 4
    assert len(small) < 0.5 * len(draw_page(dataset, detailed=4))


def test_videos_are_shown_as_well(tmp_path: Path) -> None:
    dataset = convert_one(tmp_path, cell(size=(96, 160)), "data.storage=video")
    shown = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', (dataset / PAGE).read_text())
    assert len(shown) == 8
    assert decode_image(base64.b64decode(shown[0])).shape == (96, 160, 3)


def test_images_lost_to_the_old_grid_have_their_way_out_until_it_is_taken(tmp_path: Path) -> None:
    cell(3.0, seed=2).write(tmp_path / "src" / "bag")  # 0 to 3 ms of jitter, and an old grid that begins within them
    for settings, is_hinted in ((["data.resample=hold", "data.grid_delay_ms=0"], True), ([], False)):
        out = tmp_path / f"{is_hinted}"
        summary = run(tmp_path / "src", out, *settings)
        page = (out / PAGE).read_text()
        assert ("<code>data.grid_delay_ms=null</code>" in page) == is_hinted
        assert ("more than the camera lost" in page) == is_hinted
        assert bool(summary.warnings) == (summary.images.passed_over > 0) == is_hinted


def test_an_episode_has_the_number_by_which_data_episodes_chooses_it(record: ConversionRecord) -> None:
    reports = {report.number: report for report in report_episodes(record, 30)}
    in_gap_bag = [report.number_in_bag() for report in reports.values() if report.bag.bag == "kitchen/gap"]
    assert in_gap_bag == [(0, 2), (1, 2)]
    bag = reports[1].bag
    skipped = LeftOut(start_ns=bag.episodes[0].start_ns, frames=32, reason="not_chosen")
    chosen = bag.model_copy(update={"episodes": [bag.episodes[1]], "left_out": [skipped]})
    assert EpisodeReport(bag.episodes[1], chosen, [], 0, 0, 0).number_in_bag() == (1, 2)
