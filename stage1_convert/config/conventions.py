"""The settings of what the numbers and images in the dataset mean."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.cli.config import Section
from stage1_convert.config.names import UR_JOINTS


class ConventionsConfig(Section):
    """What the numbers and images in the dataset mean."""

    joint_order: list[str] = Field(
        default=UR_JOINTS, description="joints of the state and the action, selected by name in every message"
    )
    apply_joint_sign: bool = Field(default=False, description="multiply the joint angles by joint_sign")
    joint_sign: list[float] = Field(
        default=[1.0, -1.0, -1.0, 1.0, 1.0, 1.0], description="+1 or -1 for each joint of joint_order"
    )
    wrap_angles: bool = Field(default=False, description="wrap the joint angles of the state to (-pi, pi]")
    action: Literal["delta", "next_position", "command"] = Field(
        default="delta",
        description=(
            "delta: action[t] is state[t+1] - state[t], angles along the shortest arc; next_position: state[t+1]; "
            "command: the value that data.command_topic requested, or data.action_paths alone"
        ),
    )
    action_fields: list[str] = Field(
        default=[],
        description="names of data.state_fields that are part of the action, too; with command, their next values",
    )
    image_resize: list[Annotated[int, Field(ge=8, le=4096)]] | None = Field(
        default=None, description="[height, width] of the stored images; null: as recorded"
    )
    jpeg_quality: int = Field(default=95, ge=1, le=100, description="quality of images that are not JPEG already")

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse joints that are named twice and signs that do not fit them."""
        if not self.joint_order or len(set(self.joint_order)) != len(self.joint_order):
            raise ValueError(f"conventions.joint_order={self.joint_order}: expected each joint once, and at least one")
        if self.apply_joint_sign and len(self.joint_sign) != len(self.joint_order):
            raise ValueError(
                f"conventions.joint_sign has {len(self.joint_sign)} entries, joint_order {len(self.joint_order)}: "
                "expected one for each joint"
            )
        if any(sign not in (1.0, -1.0) for sign in self.joint_sign):
            raise ValueError(f"conventions.joint_sign={self.joint_sign}: expected only +1 and -1")
        if self.image_resize is not None and len(self.image_resize) != 2:
            raise ValueError(f"conventions.image_resize={self.image_resize}: expected [height, width] or null")
        return self

    @property
    def signs(self) -> list[float]:
        """Return the factor of each joint's angle, by joint_order."""
        return self.joint_sign if self.apply_joint_sign else [1.0] * len(self.joint_order)
