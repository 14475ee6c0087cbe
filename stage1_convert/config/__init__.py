"""The settings of a conversion: what to read from a bag, how to align it, and what the numbers mean."""

from typing import Self

from pydantic import model_validator

from common.cli.config import Section
from stage1_convert.config.by_stream import ResampleRule, rule_of, time_source_of, whole_of
from stage1_convert.config.conventions import ConventionsConfig
from stage1_convert.config.data import DataConfig
from stage1_convert.config.names import COMMAND, FIELD_PATH, JOINT_POSITION, JOINTS, MONO16, UR_JOINTS, Encoding

__all__ = [
    "COMMAND",
    "FIELD_PATH",
    "JOINTS",
    "MONO16",
    "UR_JOINTS",
    "Config",
    "ConventionsConfig",
    "DataConfig",
    "Encoding",
    "ResampleRule",
    "rule_of",
    "time_source_of",
    "whole_of",
]


class Config(Section):
    """The whole configuration of stage 1."""

    data: DataConfig = DataConfig()
    conventions: ConventionsConfig = ConventionsConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse actions that nothing gives and state dimensions that share a name."""
        data, joints = self.data, self.conventions.joint_order
        if self.conventions.action == "command" and data.command_topic is None and not data.action_paths:
            raise ValueError(
                "conventions.action=command: expected data.command_topic, the topic of the commands, or data.action_paths"
            )
        for name in self.conventions.action_fields:
            if name not in self.data.state_fields:
                known = ", ".join(self.data.state_fields) or "none"
                raise ValueError(f"conventions.action_fields: {name} is no name of data.state_fields; they are {known}")
        if data.action_paths and self.conventions.action == "delta":
            raise ValueError(
                "data.action_paths with conventions.action=delta: numbers as they were published are no steps; expected "
                "conventions.action=command or next_position, or data.state_fields with conventions.action_fields"
            )
        for key, fields in (("state_fields", data.state_fields), ("action_paths", data.action_paths)):
            for name in fields:
                if name in joints:
                    raise ValueError(f"data.{key}.{name}: a joint has this name; expected another one")
        for name, joint in data.command_joints.items():
            if joint not in joints or list(data.command_joints.values()).count(joint) > 1:
                raise ValueError(
                    f"data.command_joints.{name}={joint}: expected a joint of joint_order, each once; they are "
                    f"{', '.join(joints)}"
                )
        for name in data.max_age_ms_by_stream:
            if name not in data.streams and name.partition(".")[2] not in joints:
                raise ValueError(f"data.max_age_ms_by_stream.{name}: no such joint; there are {', '.join(joints)}")
        return self

    @property
    def streams(self) -> tuple[str, ...]:
        """Return the names of the streams that are read: joints, cameras, fields, commands of joints if they are used."""
        return self.data.streams if self.has_commands else self.data.streams[:-1]

    @property
    def has_commands(self) -> bool:
        """Return whether actions of the joints are what data.command_topic requested."""
        return self.conventions.action == "command" and self.data.command_topic is not None

    @property
    def state_names(self) -> tuple[str, ...]:
        """Return the names of the state's dimensions, in order."""
        fields = [(field, joint) for field in self.data.joint_fields for joint in self.conventions.joint_order]
        joints = (joint if field == "position" else f"{joint}.{field}" for field, joint in fields)
        return (*joints, *self.data.state_fields)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Return the names of the action's dimensions, in order."""
        joints = self.conventions.joint_order if self.conventions.action != "command" or self.has_commands else ()
        return (*joints, *self.conventions.action_fields, *self.data.action_paths)

    @property
    def other_units(self) -> list[str]:
        """Return the names of the action's dimensions that are no positions of joints, such as a gripper's opening."""
        return [name for name in self.action_names if name in self.data.paths and not self.is_joint_position(name)]

    def is_joint_position(self, name: str) -> bool:
        """Tell whether a number that is read by its path is the position of a joint, as a JointState names it."""
        return JOINT_POSITION.fullmatch(self.data.paths[name].partition(":")[2]) is not None
