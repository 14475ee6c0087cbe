"""Models of meta/conversion.json, the record of how the bags became the dataset; docs/conversion.md describes every key.

What was not found out about a bag, such as the clocks of one that cannot be read, is left unset and not written.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from common.storage.files import read_json, write_json

RECORD_PATH = "meta/conversion.json"
SYNC_PATH = "meta/sync/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FORMAT: Literal[4] = 4


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", from_attributes=True)


class MessageCount(_Model):
    """Messages of a topic: declared by the bag, read from it, and used by some frame."""

    declared: int
    read: int
    used: int


class ClockEntry(_Model):
    """The clock of a stream, why it was chosen, and its first and last stamp; the latency is a median."""

    source: str
    reason: str
    latency_ms: float | None
    first_ns: int
    last_ns: int


class Gap(_Model):
    """Frames of the grid for which some streams had nothing to show."""

    start_ns: int
    frames: int
    streams: list[str]


class LeftOut(_Model):
    """Frames of the grid that are in no episode, and why."""

    start_ns: int
    frames: int
    reason: str


class BadMessageCount(_Model):
    """Messages of a stream that were left out, of those that were looked at, and what is wrong with the first."""

    count: int
    looked_at: int
    first_message: int
    first_stamp_ns: int
    reason: str


class AgeStats(_Model):
    """Distance in milliseconds between the frames of an episode and a stream's samples."""

    mean: float
    p95: float
    max: float


class EpisodeEntry(_Model):
    """An episode: its number in the dataset (unset before it is in one), length, first tick, and what its frames show.

    `repeated` counts by stream, the others by camera; docs/conversion.md says what.
    """

    episode_index: int = -1
    frames: int
    start_ns: int
    begins: str
    age_ms: dict[str, AgeStats]
    repeated: dict[str, int]
    passed_over: dict[str, int]
    identical: dict[str, int]
    lost: dict[str, int] = {}
    unavoidable: dict[str, int] = {}
    excess: dict[str, int] = {}


class BagEntry(_Model):
    """A bag: what it is, what was found in it, and the episodes that it gave; none when it was refused for `reason`."""

    bag: str
    status: Literal["converted", "refused"]
    reason: str | None
    warnings: list[str]
    key: str | None = None
    storage: str = ""
    sha256: dict[str, str] = {}
    custom_data: dict[str, str] = {}
    messages: dict[str, MessageCount] = {}
    bad_messages: dict[str, BadMessageCount] = {}
    clock: dict[str, ClockEntry] = {}
    resample: dict[str, str] = {}
    rate_hz: dict[str, float] = {}
    grid_delay_ms: float = 0.0
    warm_up_s: float = 0.0
    tail_s: float = 0.0
    gaps: list[Gap] = []
    left_out: list[LeftOut] = []
    compressed: list[str] = []
    task: str = ""
    success: bool | str | None = None
    sizes: dict[str, tuple[int, int]] = {}
    episodes: list[EpisodeEntry] = []

    @property
    def is_converted(self) -> bool:
        """Whether the bag has episodes in the dataset."""
        return self.status == "converted"

    @property
    def n_bad_messages(self) -> int:
        """Number of messages that were left out, over all streams."""
        return sum(bad.count for bad in self.bad_messages.values())


class StreamRule(_Model):
    """How a stream was aligned."""

    resample: str
    limit_ms: float
    time_source: str


class ConversionSettings(_Model):
    """What is the same for all bags of a conversion, and for all its shards."""

    format: Literal[4]
    tool: dict[str, str]
    config: dict[str, Any]
    action: dict[str, Any]
    joint_names: list[str]
    joint_sign: dict[str, float]
    state_names: list[str]
    action_names: list[str]
    cameras: list[str]
    streams: dict[str, StreamRule]
    pictures_verified: bool


class ConversionRecord(ConversionSettings):
    """The whole of meta/conversion.json."""

    bags: list[BagEntry]

    @property
    def settings(self) -> ConversionSettings:
        """Return the record without its bags and the streams that were found in them."""
        return ConversionSettings(
            **{**{name: getattr(self, name) for name in ConversionSettings.model_fields}, "streams": {}}
        )


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as JSON, without what is unset in it."""
    write_json(path, record.model_dump(exclude_unset=True))


def read_record(dataset: Path) -> ConversionRecord | None:
    """Return the record of a dataset; None where there is none of this format. Raises UserError when it is not JSON."""
    path = dataset / RECORD_PATH
    try:
        return ConversionRecord.model_validate(read_json(path)) if path.is_file() else None
    except ValidationError:
        return None
