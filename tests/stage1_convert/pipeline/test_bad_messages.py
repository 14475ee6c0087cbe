"""One odd message costs one message: it is left out and counted, and the frames show what is left."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stage1_convert.__main__ import main
from stage1_convert.check import check
from stage1_convert.pipeline.convert import Summary
from stage1_convert.report.page import PAGE
from tests.recordings import ros1
from tests.stage1_convert.conversion import command, jpegs, reason, report, run, shown, states_of
from tests.stage1_convert.recording import (
    DRIVER_JOINTS,
    JOINT_TOPIC,
    RecordedMessage,
    Recording,
    cell,
    compressed_image,
    decode,
    draw,
    joint_state,
    number_in,
    stamp_of,
    with_images,
    with_joints,
)

BAD_IMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "holds no image: 0 bytes"),
    "cut off": (lambda data: data[:200], "its end marker is missing"),
    "damaged inside": (lambda data: data[:-200] + b"\xff\xd9", "premature end of data"),
    "of another size than it claims": (
        lambda data: data.replace(b"\0\x30\0\x40", b"\0\x30\xff\xff", 1),
        "does not decode",
    ),
}


def converted(tmp_path: Path, recording: Recording, *overrides: str) -> tuple[Summary, Any]:
    """Return the summary of a conversion and the record of its only bag."""
    recording.write(tmp_path / "src" / "bag")
    summary = run(tmp_path / "src", tmp_path / "out", *overrides)
    return summary, report(tmp_path / "out")["bags"][0]


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_is_left_out_and_counted(tmp_path: Path, kind: str) -> None:
    damage, words = BAD_IMAGES[kind]
    recording = with_images(cell(), [30], lambda _, data: damage(data))
    summary, bag = converted(tmp_path, recording)
    stamp_ns = stamp_of(recording.images[30])
    found = bag["bad_messages"].pop("color")
    assert words in found.pop("reason")
    looked_at = len({30, *shown(tmp_path / "out")})
    assert found == {"count": 1, "looked_at": looked_at, "first_message": 30, "first_stamp_ns": stamp_ns}
    assert not bag["bad_messages"]
    (text,) = bag["warnings"]
    assert (
        f"camera color: 1 bad message of {looked_at} left out, the first one message 30 stamped {stamp_ns} ns: " in text
    )
    assert summary.warnings == [("bag", text)]
    assert (summary.bad_messages, summary.episodes) == (1, 1)
    assert sum(episode["frames"] for episode in bag["episodes"]) == summary.frames > 40
    numbers = [number_in(decode(data)) for data in jpegs(tmp_path / "out")]
    assert numbers == shown(tmp_path / "out")
    assert 30 not in numbers
    page = (tmp_path / "out" / PAGE).read_text()
    assert "Messages left out" in page
    assert f"<td>{stamp_ns}</td>" in page


def with_nan(said: RecordedMessage) -> Any:
    return joint_state(stamp_of(said), DRIVER_JOINTS, [np.nan, *said.message.position[1:]])


BAD_JOINTS: dict[str, tuple[Callable[[RecordedMessage], Any], str]] = {
    "NaN": (with_nan, "shoulder_lift_joint is nan rad"),
    "an angle beyond any": (
        lambda said: joint_state(stamp_of(said), DRIVER_JOINTS, [-1e300, *said.message.position[1:]]),
        "shoulder_lift_joint is -1e+300 rad",
    ),
    "one too few": (
        lambda said: joint_state(stamp_of(said), DRIVER_JOINTS, said.message.position[:5]),
        "6 joints are named and 5 positions given",
    ),
    "no names": (
        lambda said: joint_state(stamp_of(said), [], said.message.position),
        "0 joints are named and 6 positions given",
    ),
    "no stamp either": (lambda said: joint_state(0, DRIVER_JOINTS, []), "6 joints are named and 0 positions given"),
}


@pytest.mark.parametrize("kind", BAD_JOINTS)
def test_a_bad_joint_state_is_left_out_and_counted(tmp_path: Path, kind: str) -> None:
    damage, words = BAD_JOINTS[kind]
    recording = cell()
    good = [said.message.position for said in recording.joints]
    with_joints(recording, 60, 64, damage)
    summary, bag = converted(tmp_path, recording)
    stamp_ns = recording.joints[60].receive_ns if kind == "no stamp either" else stamp_of(recording.joints[60])
    assert bag["bad_messages"] == {
        "joints": {
            "count": 4,
            "looked_at": 150,
            "first_message": 60,
            "first_stamp_ns": stamp_ns,
            "reason": words,
        }
    }
    assert f"topic {JOINT_TOPIC}: 4 bad messages of 150 left out" in summary.warnings[0][1]
    assert bag["clock"]["joints"]["source"] == "header"
    messages = shown(tmp_path / "out", "joints")
    assert not set(messages) & {60, 61, 62, 63}
    states = states_of(tmp_path / "out")
    np.testing.assert_allclose(states, [np.roll(good[number], 1) for number in messages], atol=1e-6)


def test_a_bad_message_refuses_the_bag_when_configured(tmp_path: Path) -> None:
    recording = with_images(cell(), [30], lambda _, data: data[:200])
    text = reason(tmp_path, recording, "data.bad_messages=refuse")
    assert f"camera color, message 30 stamped {stamp_of(recording.images[30])} ns: " in text
    assert BAD_IMAGES["cut off"][1] in text


def test_more_than_five_percent_refuse_the_bag_with_the_count(tmp_path: Path) -> None:
    assert converted(tmp_path / "one", with_images(cell(), [10], lambda *_: b""))[0].bad_messages == 1
    (tmp_path / "two").mkdir()
    text = reason(tmp_path / "two", with_images(cell(), [10, 20, 30], lambda *_: b""))
    assert text.startswith("camera color: 3 of the 44 messages that were looked at are bad, more than 5%")
    assert "message 10 stamped" in text


def test_what_is_left_decides_about_gaps(tmp_path: Path) -> None:
    recording = with_images(cell(4.0), range(50, 54), lambda *_: b"")
    _, bag = converted(tmp_path, recording)
    assert [gap["streams"] for gap in bag["gaps"]] == [["color"]]
    assert [episode["begins"] for episode in bag["episodes"]] == ["start", "gap"]
    assert bag["bad_messages"]["color"]["count"] == 4


def test_what_the_frames_show_instead_is_looked_at_too(tmp_path: Path) -> None:
    slow = "data.fps=10"
    recording = cell(8.0)
    recording.write(tmp_path / "whole" / "bag")
    run(tmp_path / "whole", tmp_path / "before", slow)
    first = shown(tmp_path / "before")[20]
    bad = [first - 2, first - 1, first]
    _, bag = converted(
        tmp_path, with_images(recording, [*bad, first + 1], lambda *_: b"junk"), slow, "data.max_age_ms=200"
    )
    found = bag["bad_messages"]["color"]
    assert (found["count"], found["first_message"]) == (3, first - 2)  # nobody looked at the one after the frame
    assert found["looked_at"] == len(set(shown(tmp_path / "before"))) + 2
    assert shown(tmp_path / "out")[20] == first - 3


def test_an_image_without_data_and_stamp_does_not_take_the_stamps_from_the_others(tmp_path: Path) -> None:
    recording = cell()
    recording.images[30] = recording.images[30]._replace(message=compressed_image(0, b""))
    _, bag = converted(tmp_path, recording)
    assert bag["clock"]["color"]["source"] == "header"
    assert bag["bad_messages"]["color"]["first_stamp_ns"] == recording.images[30].receive_ns


def test_of_trusted_images_those_are_left_out_whose_end_is_missing_or_that_the_statistics_cannot_read(
    tmp_path: Path,
) -> None:
    recording = with_images(cell(), [20], lambda _, data: data[:200])
    with_images(recording, [24], lambda _, data: data[:-200] + b"\xff\xd9").write(tmp_path / "src" / "bag")
    assert command(tmp_path, "--trust-images") == 0
    assert not {20, 24} & set(shown(tmp_path / "out"))
    record = report(tmp_path / "out")
    assert record["pictures_verified"] is False
    assert record["bags"][0]["bad_messages"]["color"]["count"] == 2
    assert "their\nbeginning and end" in (tmp_path / "out" / PAGE).read_text()


def test_the_summary_counts_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_joints(with_images(cell(), [20], lambda *_: b""), 70, 72, with_nan).write(tmp_path / "src" / "bag")
    assert command(tmp_path) == 0
    assert "bad       3 messages left out\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda data: data[:-2] + b"\x12\x34\x56" + data[-2:], "3 bytes too many before the end marker"),
        (lambda data: data + b"serial 1234", "11 bytes behind the end marker"),
    ],
)
def test_odd_bytes_around_a_whole_image_are_no_damage(
    tmp_path: Path, make: Callable[[bytes], bytes], words: str
) -> None:
    def drawn(number: int, _: bytes) -> bytes:
        return make(cv2.imencode(".jpg", np.full((48, 64, 3), number * 5, np.uint8))[1].tobytes())

    _, bag = converted(tmp_path, with_images(cell(), range(45), drawn))
    assert not bag["bad_messages"]
    (text,) = bag["warnings"]
    assert re.match(rf"camera color: \d+ images with something odd that is no damage, the first .*: {words}", text)
    levels = [int(decode(data)[0, 0, 0]) for data in jpegs(tmp_path / "out")]
    assert levels == [number * 5 for number in shown(tmp_path / "out")]
    assert not check(tmp_path / "out").findings


def test_bytes_too_many_before_restart_markers_are_no_damage_unless_a_stretch_is_damaged(tmp_path: Path) -> None:
    def drawn(number: int, _: bytes) -> bytes:
        options = [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
        data = cv2.imencode(".jpg", cv2.cvtColor(draw(number), cv2.COLOR_RGB2BGR), options)[1].tobytes()
        data = data.replace(b"\xff\xd0", bytes(range(12)) + b"\xff\xd0").replace(b"\xff\xd3", b"\1\2" + b"\xff\xd3")
        middle = data.index(b"\xff\xd4")
        return data[: middle - 60] + b"\x55" * 60 + data[middle:] if number == 30 else data

    _, bag = converted(tmp_path, with_images(cell(), range(45), drawn))
    (text,) = [warning for warning in bag["warnings"] if "odd" in warning]
    assert text.endswith("bytes too many before its restart markers")
    assert bag["bad_messages"]["color"]["count"] == 1
    assert bag["bad_messages"]["color"]["first_message"] == 30
    numbers = [number_in(decode(data)) for data in jpegs(tmp_path / "out")]
    assert numbers == shown(tmp_path / "out")
    assert not check(tmp_path / "out").findings


@pytest.mark.parametrize("form", ["bag", "mcap"])
def test_a_message_of_ros_1_that_does_not_convert_is_left_out_and_counted(tmp_path: Path, form: str) -> None:
    recording = cell()
    for messages, number in ((recording.joints, 60), (recording.images, 30)):
        messages[number] = messages[number]._replace(message=ros1.serialized(messages[number])[:-30])
    write = ros1.write_mcap if form == "mcap" else ros1.write_bag
    write(recording, tmp_path / "src" / f"bag.{form}")
    run(tmp_path / "src", tmp_path / "out")
    found = report(tmp_path / "out")["bags"][0]["bad_messages"]
    assert {name: (bad["count"], bad["first_message"]) for name, bad in found.items()} == {
        "joints": (1, 60),
        "color": (1, 30),
    }
    assert found["joints"]["reason"].startswith("the message is damaged: ")


def test_a_dry_run_looks_past_a_bad_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_images(cell(), range(3), lambda *_: b"").write(tmp_path / "src" / "bag")
    assert main(["--src", str(tmp_path / "src"), "--dry-run"]) == 0
    assert "bags      1 would be converted" in capsys.readouterr().out
