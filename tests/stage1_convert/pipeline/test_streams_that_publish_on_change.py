"""A gripper that publishes on change does not end an episode, and whatever is cut at either end is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from common.cli.command import UserError
from common.cli.config import load
from stage1_convert.config import Config
from tests.stage1_convert.conversion import report, run, shown, sources_of, states_of
from tests.stage1_convert.recording import (
    JOINTS,
    MS,
    START_NS,
    TYPES,
    RecordedMessage,
    Recording,
    cell,
    header,
)

GRIPPER, TRAJECTORIES = "/gripper/state", "/trajectory"
FIELD = f"data.state_fields={{gripper: '{GRIPPER}:data'}}"
PATIENT = "data.max_age_ms_by_stream={gripper: 60000}"
SECONDS = 6.0


def gripping(*changes: tuple[float, float]) -> Recording:
    """Return a recording whose gripper publishes these (second, value)."""
    recording = cell(SECONDS, size=(16, 64))
    for second, value in changes:
        message = TYPES.types["std_msgs/msg/Float64"](value)
        at_ns = START_NS + round(second * 1e9)
        recording.others.append(RecordedMessage(at_ns, GRIPPER, "std_msgs/msg/Float64", message))
    return recording


def converted(folder: Path, recording: Recording, *settings: str) -> tuple[Any, list[str]]:
    """Return the frames as a table with the gripper's state and source, and the warnings."""
    recording.write(folder / "src" / "bag")
    summary = run(folder / "src", folder / "out", FIELD, *settings)
    frames = pd.DataFrame({"second": (sources_of(folder / "out")["tick_ns"] - START_NS) / 1e9})
    frames["gripper"] = states_of(folder / "out")[:, 6]
    frames["message"] = shown(folder / "out", "gripper")
    return frames, [text for _, text in summary.warnings]


def test_the_grasp_does_not_end_the_episode(tmp_path: Path) -> None:
    frames, warnings = converted(tmp_path, gripping((0.0, 0.0), (1.5, 0.7)), PATIENT)
    assert len(frames) >= 178
    assert set(frames["gripper"][frames["second"] < 1.5]) == {0.0}
    assert set(frames["gripper"][frames["second"] >= 1.5]) == {np.float32(0.7)}
    assert warnings == []


def test_a_value_is_held_as_long_as_its_own_limit_says_and_the_rest_is_said(tmp_path: Path) -> None:
    frames, (warning,) = converted(
        tmp_path, gripping((0.0, 0.0), (1.5, 0.7)), "data.max_age_ms_by_stream={gripper: 2000}"
    )
    assert frames["second"].max() == pytest.approx(3.5, abs=0.04)
    assert warning.startswith("the last 2.5 s are in no frame: nothing new from gripper")
    assert PATIENT in warning
    (gap,) = report(tmp_path / "out")["bags"][0]["gaps"]
    assert gap["streams"] == ["gripper"]


def test_irregular_intervals_tell_that_a_stream_publishes_on_change(tmp_path: Path) -> None:
    moving = [(0.02 * number, number / 50) for number in range(50)]
    late = [(2.0 + second, value) for second, value in moving]
    frames, (warning,) = converted(tmp_path, gripping(*moving, *late))  # with the limit of all streams, 100 ms
    assert frames["second"].max() == pytest.approx(3.08, abs=0.04)
    assert warning.startswith("the last 2.9 s are in no frame: nothing new from gripper")


def test_a_stream_at_a_rate_ends_the_grid_with_its_last_sample_and_that_is_said(tmp_path: Path) -> None:
    frames, (warning,) = converted(tmp_path, gripping(*((0.02 * number, 0.5) for number in range(150))))
    assert frames["second"].max() == pytest.approx(2.98, abs=0.04)
    assert warning == (
        f"the last 3.0 s are in no frame: gripper publishes its last message before; if it publishes on change, {PATIENT} "
        "holds it"
    )


def test_an_initial_value_stands_in_until_the_first_message(tmp_path: Path) -> None:
    first = gripping((2.5, 0.7))
    late, (warning,) = converted(tmp_path / "late", first, PATIENT)
    assert late["second"].min() == pytest.approx(2.5, abs=0.04)
    assert warning.startswith("the first 2.5 s are in no frame: gripper publishes its first message then; ")
    assert "data.initial_values={gripper: NUMBER}" in warning
    frames, warnings = converted(tmp_path / "whole", first, PATIENT, "data.initial_values={gripper: 0.25}")
    assert len(frames) >= 178
    before = frames["second"] < 2.5
    assert (set(frames["gripper"][before]), set(frames["message"][before])) == ({0.25}, {-1})
    assert (set(frames["gripper"][~before]), set(frames["message"][~before])) == ({np.float32(0.7)}, {0})
    assert warnings == []
    counts = report(tmp_path / "whole" / "out")["bags"][0]["messages"][GRIPPER]
    assert counts == {"declared": 1, "read": 1, "used": 1}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (["data.initial_values={gripper: 0}"], "no name of data.state_fields; they are none"),
        ([FIELD, "data.initial_values={gripper: 0}", "data.resample=linear"], "data.resample_by_stream.gripper=hold"),
        ([FIELD, "data.initial_values={gripper: .nan}"], "initial_values"),
    ],
)
def test_initial_values_are_numbers_of_fields_that_are_held(settings: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        load(Config, None, settings)


def test_trajectories_that_are_sent_once_for_each_goal_are_no_actions(tmp_path: Path) -> None:
    recording = cell(SECONDS, size=(16, 64))
    kind = "trajectory_msgs/msg/JointTrajectory"
    duration = TYPES.types["builtin_interfaces/msg/Duration"](0, 0)
    nothing = np.zeros(0)
    point = TYPES.types["trajectory_msgs/msg/JointTrajectoryPoint"](np.zeros(6), nothing, nothing, nothing, duration)
    for second in (0, 2, 4):
        at_ns = START_NS + second * 10**9 + MS
        recording.others.append(
            RecordedMessage(at_ns, TRAJECTORIES, kind, TYPES.types[kind](header(0), JOINTS, [point] * 4))
        )
    recording.write(tmp_path / "src" / "bag")
    settings = f"data.command_topic={TRAJECTORIES}", "conventions.action=command"
    with pytest.raises(UserError, match=r"3 trajectories, one for each goal.*conventions\.action=next_position"):
        run(tmp_path / "src", tmp_path / "out", *settings, "data.max_age_ms_by_stream={command: 60000}")
