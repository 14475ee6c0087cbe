"""What is wrong with a bag, a folder or a setting ends as one clear line, and never as invented data."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.cli.command import UserError
from stage1_convert.__main__ import main
from stage1_convert.pipeline.convert import RefusedError
from tests.stage1_convert.conversion import command, reason, report, rows, run, tree
from tests.stage1_convert.recording import (
    JOINT_TOPIC,
    JOINTS,
    JPEG_TOPIC,
    RecordedMessage,
    cell,
    draw,
    joint_state,
    jpeg,
    stamp_of,
    with_images,
    with_joints,
)


def shortened(said: RecordedMessage) -> Any:
    """Return a message without its last two joints."""
    return joint_state(stamp_of(said), said.message.name[:-2], said.message.position[:-2])


def test_a_missing_joint_is_refused_by_name(tmp_path: Path) -> None:
    text = reason(tmp_path, with_joints(cell(), 0, 999, shortened))
    assert "joint shoulder_pan_joint is missing" in text
    assert "shoulder_lift_joint, elbow_joint, wrist_1_joint, wrist_2_joint" in text
    assert "those of another topic in data.state_fields" in text
    assert JOINT_TOPIC in text


def test_a_joint_that_is_no_longer_named_ends_the_episode_and_is_told(tmp_path: Path) -> None:
    with_joints(cell(), 60, 999, shortened).write(tmp_path / "src" / "bag")
    summary = run(tmp_path / "src", tmp_path / "out")
    assert summary.frames == 18
    warning = f"topic {JOINT_TOPIC}: only 60 of 150 messages hold shoulder_pan_joint, wrist_3_joint"
    assert ("bag", warning) in summary.warnings


def test_a_missing_joint_in_a_message_no_frame_needs_does_no_harm(tmp_path: Path) -> None:
    recording = cell(joint_hz=500)  # message 18 comes between the first frame, 18 ms after the start, and the second
    with_joints(recording, 18, 19, lambda said: joint_state(stamp_of(said), JOINTS[:2], [1, 2]))
    recording.write(tmp_path / "src" / "bag")
    assert run(tmp_path / "src", tmp_path / "out").refused == []


def test_joints_that_are_never_named_are_refused(tmp_path: Path) -> None:
    text = reason(tmp_path, cell(), "conventions.joint_order=[joint_a, joint_b]")
    assert "names any of joint_a, joint_b" in text


def test_a_camera_that_changes_its_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    text = reason(tmp_path, with_images(cell(), [30], lambda *_: jpeg(draw(30, 24, 32))))
    assert "24x32" in text
    assert "48x64" in text
    assert "conventions.image_resize, such as [48, 64], makes them alike" in text
    assert run(tmp_path / "src", tmp_path / "out", "conventions.image_resize=[48, 64]").frames > 40


def test_a_bag_whose_size_differs_from_the_first_good_bag_is_refused(tmp_path: Path) -> None:
    cell().write(tmp_path / "src" / "a")
    cell(size=(24, 32)).write(tmp_path / "src" / "b")
    ((bag, text),) = run(tmp_path / "src", tmp_path / "out").refused
    assert bag == "b"
    assert "24x32 images, in bag a 48x64" in text
    assert run(tmp_path / "src", tmp_path / "out", "conventions.image_resize=[24, 32]").refused == []


def test_a_gap_is_refused_when_configured(tmp_path: Path) -> None:
    recording = cell(seconds=3.0)
    del recording.images[40:55]
    assert "nothing from color" in reason(tmp_path, recording, "data.on_gap=fail")


def test_a_topic_of_another_type_is_refused(tmp_path: Path) -> None:
    text = reason(tmp_path, cell(), f"data.joint_topic={JPEG_TOPIC}")
    assert "expected sensor_msgs/msg/JointState" in text


def test_messages_that_the_metadata_declares_and_nobody_stored_are_reported(tmp_path: Path) -> None:
    bag = cell().write(tmp_path / "src" / "bag")
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 45", "message_count: 61"))
    summary = run(tmp_path / "src", tmp_path / "out")
    assert summary.warnings == [("bag", f"topic {JPEG_TOPIC}: 61 messages declared, 45 read")]
    assert report(tmp_path / "out")["bags"][0]["messages"][JPEG_TOPIC] == {"declared": 61, "read": 45, "used": 44}


def test_one_bad_bag_does_not_stop_the_good_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "c"):
        cell().write(tmp_path / "src" / name)
    with_images(cell(), range(10, 20), lambda *_: b"junk").write(tmp_path / "src" / "b")
    assert command(tmp_path) == 0
    said = capsys.readouterr()
    assert "refused: bag b: camera color: 10 of the 44 messages that were looked at are bad" in said.err
    assert "2 converted, 1 refused" in said.out
    bags = report(tmp_path / "out")["bags"]
    assert [(bag["bag"], bag["status"], len(bag["episodes"])) for bag in bags] == [
        ("a", "converted", 1),
        ("b", "refused", 0),
        ("c", "converted", 1),
    ]
    assert sorted(set(rows(tmp_path / "out")["episode_index"])) == [0, 1]


def test_with_strict_one_bad_bag_no_dataset_is_written_and_the_good_ones_wait_for_the_next_run(tmp_path: Path) -> None:
    cell().write(tmp_path / "src" / "a")
    (tmp_path / "src" / "b.mcap").write_bytes(b"no bag")
    with pytest.raises(RefusedError, match=r"1 of 2 bags are refused.*\.out\.parts"):
        run(tmp_path / "src", tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "src", tmp_path / "out").reused == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "src"]


def test_an_output_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    cell().write(tmp_path / "src" / "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds thesis\.tex, which does not belong to an earlier converted dataset"):
        run(tmp_path / "src", tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_a_failed_conversion_leaves_the_old_dataset_as_it_was(tmp_path: Path) -> None:
    cell().write(tmp_path / "src" / "a")
    run(tmp_path / "src", tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(RefusedError):
        run(tmp_path / "src", tmp_path / "out", "data.joint_topic=/nothing")
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(("src", "out"), [("src", "src/out"), ("src", "src"), ("src/a", "src")])
def test_source_and_output_must_not_lie_inside_each_other(tmp_path: Path, src: str, out: str) -> None:
    cell().write(tmp_path / "src" / "a")
    with pytest.raises(UserError, match="inside each other"):
        run(tmp_path / src, tmp_path / out)


def test_a_source_that_is_missing_or_holds_no_bag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no bag in"):
        run(tmp_path / "empty", tmp_path / "out")


@pytest.mark.parametrize("pattern", ["(", "no group", "(two)(groups)"])
def test_a_task_pattern_must_have_one_group(tmp_path: Path, pattern: str) -> None:
    overrides = ["data.task_from=folder", f"data.task_pattern={pattern!r}"]
    with pytest.raises(UserError, match=r"data\.task_pattern"):
        main(["--src", str(tmp_path), "--out", str(tmp_path / "out"), "--override", *overrides])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--shard", "0/2"], "--shard 0/2"),
        (["--shard", "3/2"], "--shard 3/2"),
        (["--shard", "half"], "such as 1/4"),
        (["--workers", "0"], "--workers 0"),
        (["--merge", "a", "b"], "--merge takes shards and no --src"),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused(tmp_path: Path, flags: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        main(["--src", str(tmp_path), "--out", str(tmp_path / "out"), *flags])


@pytest.mark.parametrize(
    ("override", "words"), yaml.safe_load(Path(__file__).with_name("refused_settings.yaml").read_text())
)
def test_a_setting_that_makes_no_sense_is_refused_before_any_work(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        main(["--src", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), "--override", override])
