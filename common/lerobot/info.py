"""meta/info.json of a LeRobot v3.0 dataset, as it is validated."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, StrictInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from common.lerobot.metadata import IMAGE_DTYPES, Feature
from common.lerobot.names import value_names


class DeclaredFeature(BaseModel):
    """A feature in meta/info.json."""

    dtype: str
    shape: list[Annotated[StrictInt, Field(ge=1)]] = Field(min_length=1)
    names: Any = None
    info: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse shapes that do not fit the type."""
        if self.dtype in IMAGE_DTYPES and len(self.shape) != 3:
            raise PydanticCustomError("image_shape", "a shape of height, width and channels")
        return self

    def feature(self) -> Feature:
        """Return it with the height of images first: some datasets declare (channels, height, width)."""
        shape = tuple(self.shape)
        names, _ = value_names(self.names, len(shape) if len(shape) > 1 else shape[0])
        if self.dtype in IMAGE_DTYPES and names and names[0] in ("channel", "channels"):
            shape = (*shape[1:], shape[0])
        return Feature(self.dtype, shape, names, self.info or {})

    @property
    def odd_names(self) -> str | None:
        """What is odd about the names of a vector, None when nothing is."""
        return value_names(self.names, self.shape[0])[1] if len(self.shape) == 1 else None


class Info(BaseModel):
    """meta/info.json, as far as it is read."""

    fps: int = Field(ge=1)
    total_frames: int
    features: dict[str, DeclaredFeature]
    robot_type: str | None = None

    @field_validator("fps", mode="before")
    @classmethod
    def _check_fps(cls, fps: Any) -> Any:
        """Refuse a rate that a whole number would change."""
        if isinstance(fps, float) and not fps.is_integer():
            raise PydanticCustomError("fps", "a whole number of frames per second")
        return fps
