"""A policy's actions become commands in the robot's own units: the joints' signs, deltas, and a limit of speed.

A tick without an observation gives no command, and the policy begins anew: what it had planned belongs to a moment that has
passed.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from common.cli.command import UserError
from common.cli.config import Section
from common.lerobot.images import resize
from common.lerobot.metadata import STATE, image_key
from stage1_convert.align.state_action import wrap
from stage1_convert.config import Config
from stage1_convert.live.observe import Observation, Refusal

if TYPE_CHECKING:
    from common.policy import Policy


class CommandTopic(Section):
    """What is published on a topic, in this order: joints, or fields that are part of the action."""

    kind: Literal["trajectory", "array"] = Field(
        default="trajectory",
        description="trajectory: JointTrajectory with one point, for a joint_trajectory_controller; array: "
        "Float64MultiArray, for a forward_command_controller",
    )
    names: list[str] = Field(min_length=1, description="names of the action's dimensions, as in the dataset")


class DriveConfig(Section):
    """How a policy drives a robot."""

    delay_ms: float = Field(
        default=50.0, ge=0, le=1000, description="a tick is answered this long after it, when its messages have come"
    )
    max_speed: float = Field(
        default=0.3,
        gt=0,
        description="limit for each joint in rad/s (m/s of a finger in JointState messages), from where it is now",
    )
    max_speed_by_name: dict[str, float] = Field(
        default={},
        description="limit of single joints or fields in place of max_speed, per second in their own unit; needed for those "
        "that are no positions in JointState messages, such as a gripper from 0 to 255",
    )
    commands: dict[str, CommandTopic] = Field(description="topic -> what is published there; each name on one topic")

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse limits that stop a joint and names that are on several topics."""
        names = [name for command in self.commands.values() for name in command.names]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"commands: {twice} is on two topics; expected each name on one")
        for name, limit in self.max_speed_by_name.items():
            if limit <= 0 or name not in names:
                raise ValueError(f"max_speed_by_name.{name}={limit:g}: expected a speed above 0 of one of {names}")
        return self


class Motion(NamedTuple):
    """The commands of a tick, in the units of the robot, by the names of the action, and those that the limit cut."""

    observation: Observation
    targets: dict[str, float]
    limited: list[str]


class Driver:
    """Turns observations into commands: the policy's action, and where that leads from where the robot is."""

    def __init__(self, policy: "Policy", config: Config, drive: DriveConfig) -> None:
        """Raises UserError when policy, dataset and command topics are not about the same joints and cameras."""
        require_fit(policy, config, drive)
        self._policy, self._config, self._drive = policy, config, drive

    def step(self, seen: Observation | Refusal, current: Mapping[str, float]) -> Motion | Refusal:
        """Return the commands for a tick, or why there are none; the policy then forgets what it had planned.

        `current` are the newest values of the state's numbers, as they are published.
        """
        if isinstance(seen, Refusal):
            self._policy.reset()
            return seen
        images = {
            image_key(name): resize(seen.images[name], size[:2])[None] for name, size in self._policy.cameras.items()
        }
        action = self._policy.select_action({STATE: seen.state[None], **images})[0].numpy()
        if not np.isfinite(action).all():
            self._policy.reset()
            return Refusal(seen.tick_ns, {"policy": "its action is not finite"})
        wanted = to_targets(action, current, self._config)
        targets = limit_speed(wanted, current, self._drive, self._config.data.fps)
        return Motion(seen, targets, [name for name in wanted if targets[name] != wanted[name]])


def require_fit(policy: "Policy", config: Config, drive: DriveConfig) -> None:
    """Raise UserError when a policy was not trained on datasets of these settings, or some joint gets no command."""
    names, data = list(config.action_names), config.data
    if data.action_paths:
        raise UserError("data.action_paths: actions that are no positions, such as a twist, cannot be driven")
    pairs = {
        "names of the action": (policy.joint_names, names),
        "fps": (policy.fps, data.fps),
        "conventions.action": (policy.action_meaning, config.conventions.action),
        "cameras": (sorted(policy.cameras), sorted({*policy.cameras} & {*data.cameras})),
    }
    for what, (trained, converted) in pairs.items():
        if trained != converted:
            raise UserError(
                f"{what}: the policy has {trained}, the dataset {converted}; give the one it was trained on"
            )
    published = [name for command in drive.commands.values() for name in command.names]
    if sorted(published) != sorted(names):
        raise UserError(f"commands: they publish {', '.join(published)}; expected each of {', '.join(names)} once")
    unlimited = [name for name in config.other_units if name not in drive.max_speed_by_name]
    if unlimited:
        raise UserError(
            f"max_speed_by_name.{unlimited[0]}: missing; max_speed={drive.max_speed:g} is of joints, in rad/s, and "
            f"{unlimited[0]} is in a unit of its own: expected its limit per second, such as 500 for a gripper from 0 to 255"
        )


def to_targets(action: npt.NDArray[np.float32], current: Mapping[str, float], config: Config) -> dict[str, float]:
    """Return the position that an action (dimensions,) asks for, by name, in the robot's units and without the dataset's signs.

    `current` are the positions as they are published. A delta is added to them; where the dataset's angles are wrapped, the
    target is the one on the shortest arc.
    """
    rules, targets = config.conventions, {}
    signs = dict(zip(rules.joint_order, rules.signs, strict=True))
    for name, value in zip(config.action_names, action.astype(np.float64), strict=True):
        wanted, position = signs.get(name, 1.0) * value, current[name]
        if rules.action == "delta":
            wanted = position + wanted
        elif rules.wrap_angles and name in rules.joint_order:
            wanted = position + wrap(np.array(wanted - position))
        targets[name] = float(wanted)
    return targets


def limit_speed(
    targets: Mapping[str, float], current: Mapping[str, float], drive: DriveConfig, fps: int
) -> dict[str, float]:
    """Return the targets, none further from the current position than its limit of speed allows in a period of `fps`."""
    steps = {name: drive.max_speed_by_name.get(name, drive.max_speed) / fps for name in targets}
    return {
        name: min(max(target, current[name] - steps[name]), current[name] + steps[name])
        for name, target in targets.items()
    }
