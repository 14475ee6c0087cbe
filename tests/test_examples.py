"""The examples fit the product: each robot's three settings belong together."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.cli.config import load
from stage1_convert.config import Config
from stage1_convert.live.drive import DriveConfig, require_fit
from stage2_train.config import TrainConfig
from tests.conftest import ROOT

ROBOTS = sorted(path.parent for path in ROOT.glob("examples/*/convert.yaml"))


def test_the_robots_are_there() -> None:
    assert [robot.name for robot in ROBOTS] == ["franka", "so101", "two_arms_with_grippers", "ur10e"]


@pytest.mark.parametrize("robot", ROBOTS, ids=lambda robot: robot.name)
def test_a_robots_settings_belong_together(robot: Path) -> None:
    config, training = load(Config, robot / "convert.yaml"), load(TrainConfig, robot / "train.yaml")
    assert training.data.fps in (None, config.data.fps)
    policy: Any = SimpleNamespace(
        joint_names=list(config.action_names),
        fps=config.data.fps,
        action_meaning=config.conventions.action,
        cameras=dict.fromkeys(config.data.cameras, (240, 320, 3)),
    )
    require_fit(policy, config, load(DriveConfig, robot / "drive.yaml"))


def test_the_settings_in_the_documentation_are_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "on-the-robot.md").read_text(), re.DOTALL)
    (tmp_path / "drive.yaml").write_text(block)
    assert load(DriveConfig, tmp_path / "drive.yaml").max_speed_by_name == {"gripper": 0.05}
