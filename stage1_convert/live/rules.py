"""How a dataset was aligned, as a robot needs it: from the record of its conversion, meta/conversion.json."""

from collections.abc import Mapping
from typing import NamedTuple

from rosbags.typesys.store import Typestore

from common.cli.command import UserError
from common.cli.validation import validate
from stage1_convert.bags.bag import Topic
from stage1_convert.bags.message_files import MessageFile
from stage1_convert.bags.message_types import typestore
from stage1_convert.bags.storage import NO_DEFINITION
from stage1_convert.config import JOINTS, Config, whole_of
from stage1_convert.dataset.record import BagEntry, ConversionRecord

CAUSAL = ("hold", "in_order")


class LiveRules(NamedTuple):
    """The settings of the conversion, and by stream the rule and the clock (header or receive) that were chosen.

    `topics` are those that were read, `sizes` the (height, width) of each camera's images.
    """

    config: Config
    resample: Mapping[str, str]
    clock: Mapping[str, str]
    topics: frozenset[str]
    sizes: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, record: ConversionRecord, bag: str | None = None) -> "LiveRules":
        """Return the rules of one bag, or those that all bags have in common.

        Raises UserError when there is no such bag, when the bags differ, or when a stream looks ahead.
        """
        config = validate(Config, record.config)
        chosen = [entry for entry in record.bags if entry.is_converted and bag in (None, entry.bag)]
        if not chosen:
            raise UserError(f"the dataset holds no bag {bag}: it holds {', '.join(entry.bag for entry in record.bags)}")
        observed = {name for entry in chosen for name in entry.resample if _is_observed(name, config)}
        resample = {name: _common(name, {e.bag: e.resample.get(name) for e in chosen}) for name in sorted(observed)}
        clock = {name: _common(name, {e.bag: _source(e, name) for e in chosen}) for name in sorted(observed)}
        for name, rule in resample.items():
            if rule not in CAUSAL:
                raise UserError(
                    f"stream {name} was aligned by {rule}, which looks ahead: a robot cannot; convert the bags again with "
                    f"data.resample_by_stream={{{name.partition('.')[0]}: auto}}"
                )
        return cls(config, resample, clock, frozenset(chosen[0].messages), chosen[0].sizes)

    def of_stream(self, stream: str) -> tuple[str, str]:
        """Return the rule and the clock of a stream; joints.NAME, where it was none when recorded, follows `joints`."""
        name = stream if stream in self.resample else whole_of(stream)
        return self.resample[name], self.clock[name]


class RobotTopics(NamedTuple):
    """The topics that a robot publishes, and the definitions of their messages: those of `files`, else of a ROS 2 distro."""

    topics: Mapping[str, Topic]
    distro: str
    files: tuple[MessageFile, ...] = ()

    def types(self, topic: str) -> Typestore:
        """Return a typestore with the type of a topic; raises UserError when there is no definition of it."""
        return typestore(self.topics[topic].type, NO_DEFINITION, self.distro, self.files)


def _is_observed(stream: str, config: Config) -> bool:
    return whole_of(stream) == JOINTS or stream in config.data.cameras or stream in config.data.state_fields


def _source(entry: BagEntry, stream: str) -> str | None:
    return entry.clock[stream].source if stream in entry.clock else None


def _common(stream: str, found: Mapping[str, str | None]) -> str:
    """Return what all bags say of a stream that have it."""
    known = {bag: value for bag, value in found.items() if value is not None}
    bag, value = next(iter(known.items()))
    other = next((bag for bag in known if known[bag] != value), None)
    if other:
        raise UserError(
            f"stream {stream} was aligned by {value} in bag {bag} and by {known[other]} in bag {other}: choose the bag that "
            "the robot is like"
        )
    return value
