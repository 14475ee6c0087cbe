"""Whole conversions of cameras at the rate of the frames: every image in one frame, in order, at the default settings."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.stage1_convert.conversion import command, convert_one, report, run, sources_of
from tests.stage1_convert.recording import MS, START_NS, Recording, cell, compressed_image

SIZE = (16, 64)
OLD_GRID = ("data.resample=hold", "data.grid_delay_ms=0")


def filmed(offsets_ns: npt.ArrayLike, seconds: float = 6.0) -> Recording:
    """Return a recording whose images have these stamps after its start."""
    recording = cell(seconds, seed=9, size=SIZE, joint_hz=250)
    for number, offset_ns in enumerate(np.asarray(offsets_ns).tolist()):
        said, stamp_ns = recording.images[number], START_NS + offset_ns
        message = compressed_image(stamp_ns, said.message.data.tobytes())
        recording.images[number] = said._replace(receive_ns=stamp_ns + 20 * MS, message=message)
    return recording


def exact(count: int = 180) -> npt.NDArray[np.int64]:
    """Stamps on i/30 s, rounded to nanoseconds, as those of a simulation."""
    return np.rint(np.arange(count) * 1e9 / 30).astype(np.int64)


def jittered(count: int = 180) -> npt.NDArray[np.int64]:
    """The same with 1.5 ms of jitter."""
    return exact(count) + 20 * MS + np.rint(np.random.default_rng(0).normal(0, 1.5 * MS, count)).astype(np.int64)


@pytest.mark.parametrize("offsets_ns", [exact(), jittered()], ids=["exact", "jittered"])
def test_every_image_is_in_one_frame(tmp_path: Path, offsets_ns: npt.NDArray[np.int64]) -> None:
    out = convert_one(tmp_path, filmed(offsets_ns))
    traced = sources_of(out)
    assert len(traced) >= 178
    assert set(np.diff(traced["color.message"])) == {1}
    ages_ms = (traced["tick_ns"] - traced["color.stamp_ns"]) / 1e6
    assert 0 < ages_ms.min() < ages_ms.mean() == pytest.approx(1000 / 60, abs=0.5)
    assert ages_ms.max() <= 50
    (bag,) = report(out)["bags"]
    assert bag["resample"] == {"joints": "hold", "color": "in_order"}
    assert bag["rate_hz"]["color"] == pytest.approx(30, abs=0.02)
    assert bag["warnings"] == []
    assert {bag["episodes"][0][name]["color"] for name in ("repeated", "passed_over", "lost", "excess")} == {0}


def test_the_old_grid_is_still_there_and_warns_of_what_it_costs(tmp_path: Path) -> None:
    filmed(jittered()).write(tmp_path / "src" / "bag")
    summary = run(tmp_path / "src", tmp_path / "out", *OLD_GRID)
    ((bag, warning),) = summary.warnings
    assert bag == "bag"
    assert summary.images.repeated > 20 < summary.images.passed_over
    expected = f"camera color: {summary.images.repeated} of {summary.frames} frames repeat an image and "
    assert expected in warning
    assert "the camera lost 0, and its 30.0" in warning
    assert "data.resample=auto and data.grid_delay_ms=null" in warning


def test_a_clock_that_jitters_too_much_names_the_other_clock(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    recording = filmed(np.sort(exact() + rng.integers(0, 60 * MS, 180)))
    (warning,) = run(recording.write(tmp_path / "src" / "bag").parent, tmp_path / "out").warnings
    assert warning[1].endswith("its header stamps jitter: try data.time_source_by_stream={color: receive}")


def test_the_command_prints_what_was_repeated_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = filmed(jittered())
    del recording.images[50], recording.images[100]
    recording.write(tmp_path / "src" / "bag")
    assert command(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "images    2 repeated, 0 passed over; the cameras lost 2, and their rates make 0 unavoidable" in printed
    assert "warnings  0" in printed
