"""The JSON files of a `pretrained_model/` folder, as far as they are read; keys that are not listed are ignored."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

PositiveInt = Annotated[StrictInt, Field(ge=1)]


class Record(BaseModel):
    """A JSON object that LeRobot or an earlier version of this project may have written."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class PolicyFeature(Record):
    """An input or output of the policy; images have shape (channels, height, width)."""

    type: str
    shape: list[PositiveInt]


class PolicySettings(Record):
    """config.json, apart from the keys of the network itself."""

    type: Literal["act"]
    input_features: dict[str, PolicyFeature]
    output_features: dict[str, PolicyFeature]
    normalization_mapping: dict[str, str]
    replace_final_stride_with_dilation: Literal[False] | None = None


class StepSettings(Record):
    """Settings of a processor's step."""

    norm_map: dict[str, str] | None = None
    rename_map: dict[str, str] | None = None


class ProcessorStep(Record):
    """A step of a processor; `state_file` holds its tensors."""

    registry_name: str = ""
    config: StepSettings = StepSettings()
    state_file: str | None = None


class ProcessorFile(Record):
    """policy_preprocessor.json or policy_postprocessor.json."""

    steps: list[ProcessorStep]

    def step(self, name: str) -> ProcessorStep:
        """Return the step with this registry name, an empty one when there is none."""
        return next((step for step in self.steps if step.registry_name == name), ProcessorStep())


@dataclass(frozen=True)
class Robot:
    """What a driver must know to apply the actions; None where the checkpoint does not say."""

    joint_names: tuple[str, ...] | None = None
    fps: int | None = None
    action_meaning: str | None = None
    action_wrapped: bool | None = None


class TrainedData(Record):
    """Settings of the training that decide what an evaluation shows the policy."""

    rename: dict[str, str] = {}
    use_cameras: list[str] | None = None
    image_size: tuple[StrictInt, StrictInt] | None = None  # height, width
    episodes: list[StrictInt] | None = None


class TrainedConfig(Record):
    """The configuration of the training."""

    data: TrainedData = TrainedData()


class TrainedDataset(Record):
    """The dataset of the training."""

    fingerprint: str | None = None


class TrainingRecord(Record):
    """train_config.json: what LeRobot's strict config.json has no room for."""

    robot: Robot = Robot()
    config: TrainedConfig = TrainedConfig()
    dataset: TrainedDataset = TrainedDataset()
    val_episodes: list[StrictInt] = []
