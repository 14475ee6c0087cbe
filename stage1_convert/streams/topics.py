"""The topic that each stream is read from, and the fields of its messages that make it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from rosbags.typesys.store import Typestore

from common.cli.command import UserError
from stage1_convert.bags.bag import Topic
from stage1_convert.bags.cdr import FieldReader, stamp_reader
from stage1_convert.bags.message_types import IMAGE_TYPES
from stage1_convert.config import COMMAND, FIELD_PATH, JOINTS, Config
from stage1_convert.streams.joint_fields import COMMANDS, JOINT_STATE, command_reader, field_reader, joint_state_reader

PROPOSES = "--inspect proposes settings"
IMAGE_TRANSPORTS = ("compressed", "compressedDepth", "ffmpeg")  # image_transport publishes them beside a raw topic


class TypedTopics(Protocol):
    """What is known of the topics of a bag or a robot."""

    @property
    def topics(self) -> Mapping[str, Topic]:
        """The topics by name."""

    def types(self, topic: str) -> Typestore:
        """Return a typestore with the type of a topic."""


def find_topics(known: Mapping[str, Topic], config: Config) -> dict[str, str]:
    """Return the topic of each stream among those of a bag or a robot; raises UserError when one has none that fits."""
    if not any(topic.declared for topic in known.values()):
        raise UserError("is empty: it holds no message; leave it out by data.exclude")
    data = config.data
    topics = {JOINTS: _find_topic(known, [data.joint_topic], (JOINT_STATE,))}
    for camera, topic in data.cameras.items():
        siblings = [] if topic.endswith(IMAGE_TRANSPORTS) else [f"{topic}/{kind}" for kind in IMAGE_TRANSPORTS]
        topics[camera] = _find_topic(known, [*siblings[:1], topic, *siblings[1:]], IMAGE_TYPES)
    for name, path in data.paths.items():
        topics[name] = _find_topic(known, [split_path(path)[0]], ())
    if config.has_commands:
        try:
            topics[COMMAND] = _find_topic(known, [data.command_topic or ""], COMMANDS)
        except UserError as error:
            hint = "; data.action_paths takes numbers of any topic as actions" if data.command_topic in known else ""
            raise UserError(f"{error}{hint}") from error
    return topics


def stream_fields(name: str, topic: str, source: TypedTopics, config: Config) -> FieldReader:
    """Return the reader of the fields that a stream is made of; raises UserError when its topic's type has none of them."""
    types, msgtype, joints = source.types(topic), source.topics[topic].type, tuple(config.conventions.joint_order)
    if name == JOINTS:
        return joint_state_reader(types, joints, config.data.joint_fields)
    if name == COMMAND:
        return command_reader(types, msgtype, joints, config.data.command_joints)
    if name in config.data.cameras:
        return stamp_reader(types, msgtype)
    try:
        return field_reader(types, msgtype, split_path(config.data.paths[name])[1])
    except UserError as error:
        raise UserError(f"topic {topic}: {error}") from error


def dimensions(name: str, config: Config) -> list[str]:
    """Return the names of the numbers of a whole stream: those of the joints before they are divided into groups."""
    joints = config.conventions.joint_order
    if name == JOINTS:
        return list(config.state_names[: len(joints) * len(config.data.joint_fields)])
    return joints if name == COMMAND else [name]


def split_path(path: str) -> tuple[str, str]:
    """Return the topic and the field of TOPIC:path."""
    match = FIELD_PATH.fullmatch(path)
    assert match  # the config checks it
    return match["topic"], match["path"]


def _find_topic(known: Mapping[str, Topic], candidates: Sequence[str], types: Sequence[str]) -> str:
    present = [topic for topic in candidates if topic in known]
    if not present:
        held = ", ".join(f"{name} ({topic.type})" for name, topic in sorted(known.items())) or "none"
        raise UserError(f"has no topic {' or '.join(candidates[:2])}; its topics: {held}; {PROPOSES}")
    topic = next((topic for topic in present if known[topic].declared), present[0])
    if types and known[topic].type not in types:
        raise UserError(f"topic {topic} holds {known[topic].type}, expected {' or '.join(types)}; {PROPOSES}")
    return topic
