"""The records of summary.json, as they are computed, written and read again."""

from collections.abc import Collection, Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Scope = Literal["first_step", "valid_horizon"]
FIRST_STEP: Scope = "first_step"
VALID_HORIZON: Scope = "valid_horizon"
FORMAT: Literal["stage3_eval"] = "stage3_eval"
FORMAT_VERSION: Literal[3] = 3
Protocol = Literal["open_loop", "queue"]
OPEN_LOOP: Protocol = "open_loop"
QUEUE: Protocol = "queue"
OWN_UNIT = "its own unit"
MEANING_UNKNOWN = (
    "neither the dataset nor the checkpoint says what an action means: drift, how far the joints move and how to apply the "
    "actions are left out; --action-meaning delta (added to the joint positions), next_position (where to go) or command "
    "adds them"
)


class Record(BaseModel):
    """A JSON object with exactly the declared keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorStats(Record):
    """Distances between predicted and recorded actions, in the dataset's units."""

    mae: float
    rmse: float
    max: float


class JointErrors(ErrorStats):
    """The same over all joints of one unit, and of each joint by its name."""

    per_joint: dict[str, ErrorStats]


class ChunkErrors(Record):
    """Errors of the first step of a chunk, over all its steps inside the episode, and the mean error of each step."""

    first_step: JointErrors
    valid_horizon: JointErrors
    mae_by_step: list[float]

    def scope(self, scope: Scope) -> JointErrors:
        """Return the errors of the first step or of the valid horizon."""
        return self.first_step if scope == FIRST_STEP else self.valid_horizon


class DriftStats(Record):
    """Distances of a joint from where the recorded actions lead."""

    mean: float
    max: float


class JointDrift(DriftStats):
    """The same over all joints of one unit, and of each joint by its name."""

    per_joint: dict[str, DriftStats]


Drifts = dict[str, dict[str, JointDrift | None]]  # start -> time such as "0.5s"; None: no chunk or episode is so long


class RobotFacts(Record):
    """How the actions are to be applied and how far and fast they move each joint, by the joint's name."""

    apply: str
    largest_step: dict[str, float]
    largest_speed_per_s: dict[str, float]
    speed_limit_per_s: dict[str, float | None] | None
    share_over_limit: dict[str, float] | None


class Latency(Record):
    """Percentiles of the timed predictions, None without any, and the machine they were measured on."""

    device: str
    machine: str
    threads: int
    torch: str
    batch_size: int
    n: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    first_call_s: float


class EpisodeSummary(Record):
    """The overall numbers of one episode."""

    episode_index: int
    frames: int
    policy: dict[Scope, ErrorStats]
    best_baseline: dict[Scope, str]
    ratio_to_best_baseline: dict[Scope, float | None]
    drift: dict[str, dict[str, DriftStats | None]] | None = None


class Degrees(Record):
    """The parts of the summary that are angles, in degrees."""

    policy: ChunkErrors
    baselines: dict[str, ChunkErrors]
    drift: Drifts


class Header(Record):
    """What is evaluated, and how, as far as it is known before the first prediction: it decides the result."""

    format: Literal["stage3_eval"] = FORMAT
    format_version: Literal[3] = FORMAT_VERSION
    protocol: Protocol
    checkpoint: str
    checkpoint_sha256: str  # of the weights
    checkpoint_files: dict[str, str]  # name -> sha256
    dataset: str
    dataset_fingerprint: str
    rename: dict[str, str]  # key in the dataset's files -> LeRobot's name
    action_meaning: str | None
    left_out: str | None = None  # why there is no drift and nothing about the robot, and how to add it
    units: str
    other_units: list[str] = []  # dimensions with units of their own: no overall number is over them
    fps: int = Field(gt=0)
    chunk_size: int = Field(gt=0)
    n_action_steps: int = Field(gt=0)
    temporal_ensemble_coeff: float | None
    joint_names: list[str]
    episodes: list[int]
    frames: int
    held_out: bool | None
    training: dict[str, JsonValue]  # as the checkpoint records it
    device: str
    batch_size: int
    latency_steps: int | None
    max_joint_speed: list[float | None] | None  # of each joint
    attention: int

    @property
    def overall(self) -> list[int]:
        """The dimensions that the overall numbers are over."""
        return [place for place, name in enumerate(self.joint_names) if name not in self.other_units]

    def units_of(self, joint: str) -> str:
        """Return the units of a dimension."""
        return OWN_UNIT if joint in self.other_units else self.units


def seen_in_training(
    episodes: Iterable[int], held_out: Collection[int], trained_on: Collection[int] | None
) -> list[int]:
    """Return which of the episodes a training on their dataset saw; `trained_on` None: all that were not held out."""
    return [number for number in episodes if number not in held_out and (trained_on is None or number in trained_on)]


class Summary(Header):
    """summary.json: what was evaluated, errors, baselines, drift, latency, and the same by episode."""

    policy: ChunkErrors
    baselines: dict[str, ChunkErrors]
    best_baseline: dict[Scope, str]
    ratio_to_best_baseline: dict[Scope, float | None]
    drift: Drifts | None = None  # this, `robot` and the drift by episode need the meaning of an action
    degrees: Degrees | None = None  # needs radians
    robot: RobotFacts | None = None
    latency: Latency
    by_episode: list[EpisodeSummary]

    def to_json(self) -> dict[str, Any]:
        """Return the object as it is written: without the keys of what was left out."""
        missing: dict[str, Any] = {key: True for key in ("drift", "degrees", "robot") if getattr(self, key) is None}
        if self.drift is None:
            missing["by_episode"] = {"__all__": {"drift"}}
        return self.model_dump(mode="json", exclude=missing)
