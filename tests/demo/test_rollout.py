import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from common.act.checkpoint import Checkpoint, PolicyShape, new_network
from common.act.config import ActConfig
from common.act.normalization import Normalizer
from common.act.records import Robot
from common.cli.command import UserError
from common.policy import Policy
from demo.arm import JOINT_NAMES, joints_pointing_down
from demo.expert import Task, hover_point
from demo.rollout import Rollouts, held_out_tasks, main, rollout
from demo.scene import render

pytestmark = pytest.mark.integration

SHUFFLED = [JOINT_NAMES[index] for index in (3, 1, 5, 0, 4, 2)]


class Pilot:
    """Steers to points it was told, a fifth of the way at each step; the input of these tests."""

    def __init__(
        self, goals_m: np.ndarray, action_meaning: str | None = "delta", joint_names: list[str] | None = None
    ) -> None:
        self.action_meaning = action_meaning
        self.joint_names = joint_names or list(JOINT_NAMES)
        self.cameras = {"color": (64, 96, 3)}
        self.fps: int | None = 30
        self.goals = joints_pointing_down(goals_m)
        self.seen: list[Mapping[str, Tensor]] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def select_action(self, observation: Mapping[str, Tensor], /) -> Tensor:
        self.seen.append(observation)
        state = observation["observation.state"].numpy()
        order = [JOINT_NAMES.index(name) for name in self.joint_names if name in JOINT_NAMES]
        delta = 0.2 * (self.goals[:, order] - state)
        return torch.from_numpy((delta if self.action_meaning == "delta" else state + delta).astype(np.float32))


def pilot_for(tasks: list[Task], **options: Any) -> Pilot:
    return Pilot(hover_point(np.stack([task.target_xy_m for task in tasks])), **options)


def drive(pilot: Pilot, tasks: list[Task]) -> Rollouts:
    return rollout(cast(Policy, pilot), tasks)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return held_out_tasks(1000, 20)


@pytest.fixture(scope="module")
def driven(tasks: list[Task]) -> Rollouts:
    return drive(pilot_for(tasks), tasks)


@pytest.mark.parametrize(("action_meaning", "joint_names"), [("delta", SHUFFLED), ("next_position", list(JOINT_NAMES))])
def test_a_policy_that_knows_the_targets_reaches_all_of_them(
    tasks: list[Task], action_meaning: str, joint_names: list[str]
) -> None:
    rollouts = drive(pilot_for(tasks[:5], action_meaning=action_meaning, joint_names=joint_names), tasks[:5])
    assert rollouts.successes == 5
    assert rollouts.final_m.max() < 0.001


def test_ending_two_centimeters_off_is_a_success_and_four_are_not(tasks: list[Task]) -> None:
    for off_m, successes in ((0.02, 5), (0.04, 0)):
        goals_m = hover_point(np.stack([task.target_xy_m for task in tasks[:5]])) + np.array([0.0, 0.0, off_m])
        rollouts = drive(Pilot(goals_m), tasks[:5])
        assert rollouts.successes == successes
        np.testing.assert_allclose(rollouts.final_m, off_m, atol=1e-3)


def test_passing_the_hover_point_without_staying_is_not_a_success(tasks: list[Task], driven: Rollouts) -> None:
    backwards = Rollouts(tasks, driven.joints[:, ::-1], driven.fps)
    assert backwards.distances_m.min(axis=1).max() < 0.001
    assert backwards.successes == 0


def test_a_rollout_takes_two_and_a_half_seconds_at_the_frame_rate_of_the_policy(
    tasks: list[Task], driven: Rollouts
) -> None:
    slow = pilot_for(tasks[:1])
    slow.fps = 10
    assert driven.joints.shape == (20, 76, 6)
    assert drive(slow, tasks[:1]).joints.shape == (1, 26, 6)


def test_the_policy_sees_the_arm_20_ms_ago_in_the_cameras_size_and_joints_in_its_order(tasks: list[Task]) -> None:
    pilot = pilot_for(tasks[:2], joint_names=SHUFFLED)
    pilot.cameras = {"left": (48, 64, 3), "right": (64, 96, 3)}
    rollouts = drive(pilot, tasks[:2])
    assert (pilot.resets, len(pilot.seen)) == (1, 75)
    observation = pilot.seen[40]
    assert set(observation) == {"observation.state", "observation.images.left", "observation.images.right"}
    at_40 = rollouts.joints[:, 40]
    expected = np.stack([at_40[:, JOINT_NAMES.index(name)] for name in SHUFFLED], axis=1)
    np.testing.assert_array_equal(observation["observation.state"], expected.astype(np.float32))
    filmed = at_40 + (rollouts.joints[:, 39] - at_40) * 0.02 * 30
    for camera, height, width in (("left", 48, 64), ("right", 64, 96)):
        shown = np.stack([render(filmed[i], tasks[i].target_xy_m, height, width) for i in range(2)])
        np.testing.assert_array_equal(observation[f"observation.images.{camera}"], shown)
    first = np.stack([render(tasks[i].start, tasks[i].target_xy_m, 64, 96) for i in range(2)])  # before it moved
    np.testing.assert_array_equal(pilot.seen[0]["observation.images.right"], first)


def test_a_policy_for_another_robot_is_refused(tasks: list[Task]) -> None:
    with pytest.raises(UserError, match=r"joints joint_0, .* those of this cell are shoulder_pan_joint"):
        drive(pilot_for(tasks, joint_names=[f"joint_{index}" for index in range(6)]), tasks)


def test_a_policy_with_actions_of_unknown_meaning_is_refused(tasks: list[Task]) -> None:
    with pytest.raises(UserError, match="meaning of the policy's actions is None"):
        drive(pilot_for(tasks, action_meaning=None), tasks)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy that was never trained, saved like a trained one."""
    act = ActConfig(chunk_size=80, dim_model=16, n_heads=2, dim_feedforward=16, n_encoder_layers=1, latent_dim=4)
    shape = PolicyShape(state_dim=6, action_dim=6, cameras={"color": (64, 96, 3)})
    statistics = {
        f"{key}.{name}": torch.full(size, value)
        for key, size in shape.sizes().items()
        for name, value in (("mean", 0.0), ("std", 0.01))
    }
    normalizer = Normalizer(statistics, dict.fromkeys(("VISUAL", "STATE", "ACTION"), "MEAN_STD"), shape.sizes(), "here")
    robot = Robot(joint_names=tuple(SHUFFLED), fps=30, action_meaning="delta", action_wrapped=False)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint") / "pretrained_model"
    Policy(Checkpoint(new_network(act, shape), act, shape, normalizer, robot)).save(folder)
    return folder


def run_main(checkpoint: Path, out: Path, *flags: str) -> dict[str, object]:
    assert main(["--checkpoint", str(checkpoint), "--out", str(out), "--targets", "3", *flags]) == 0
    written: dict[str, object] = json.loads((out / "rollouts.json").read_text())
    return written


@pytest.mark.slow
def test_the_command_writes_the_same_results_again_and_others_untrained(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = run_main(checkpoint, tmp_path / "out")
    assert f"{written['successes']} of 3 within 3 cm" in capsys.readouterr().out
    assert (written["seed"], written["targets"], written["untrained"]) == (1000, 3, False)
    records = written["rollouts"]
    assert isinstance(records, list)
    for record, task in zip(records, held_out_tasks(1000, 3), strict=True):
        assert record["target_xy_m"] == task.target_xy_m.tolist()
        assert list(record["start_joints"].values()) == task.start.tolist()
        assert record["closest_distance_m"] <= record["final_distance_m"]
        assert record["success"] == (record["final_distance_m"] <= 0.03)
    strip = np.asarray(cv2.imread(str(tmp_path / "out" / "rollout.png")))
    assert strip.shape == (3 * 212, 6 * 292, 3)

    again = run_main(checkpoint, tmp_path / "again")
    assert again == written
    untrained = run_main(checkpoint, tmp_path / "untrained", "--untrained")
    assert untrained["untrained"] is True
    assert untrained["rollouts"] != records


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint"):
        main(["--checkpoint", str(tmp_path), "--out", str(tmp_path / "out")])
