"""What a conversion says of images that frames repeat or pass over."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.stage1_convert.conversion import command, run
from tests.stage1_convert.recording import MS, START_NS, Recording, cell, compressed_image

SIZE = (16, 64)


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


def too_jittery() -> npt.NDArray[np.int64]:
    """The same with so much jitter that no grid shows every image."""
    return np.sort(exact() + np.random.default_rng(4).integers(0, 60 * MS, 180))


@pytest.mark.parametrize(
    ("offsets_ns", "settings", "words"),
    [
        (jittered(), ["data.resample=hold", "data.grid_delay_ms=0"], "data.resample=auto and data.grid_delay_ms=null"),
        (too_jittery(), [], "its header stamps jitter: try data.time_source_by_stream={color: receive}"),
    ],
    ids=["another grid", "another clock"],
)
def test_a_warning_names_the_setting_that_shows_each_image(
    tmp_path: Path, offsets_ns: npt.NDArray[np.int64], settings: list[str], words: str
) -> None:
    ((_, warning),) = run(
        filmed(offsets_ns).write(tmp_path / "src" / "bag").parent, tmp_path / "out", *settings
    ).warnings
    assert words in warning


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
