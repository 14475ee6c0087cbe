"""The topic of each stream among those of a bag."""

from pathlib import Path

import pytest

from common.cli.command import UserError
from common.cli.config import load
from stage1_convert.align.topics import find_topics
from stage1_convert.bags.bag import open_bag
from stage1_convert.config import Config
from tests.stage1_convert.recording import JOINT_TOPIC, Recording, cell


def topics_of(tmp_path: Path, recording: Recording, *overrides: str) -> dict[str, str]:
    with open_bag(recording.write(tmp_path / "bag"), tmp_path, "humble") as bag:
        return find_topics(bag.topics, load(Config, None, overrides))


def test_a_state_field_of_a_missing_topic_is_refused_with_the_topics_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"has no topic /wrench; its topics: .*{JOINT_TOPIC}"):
        topics_of(tmp_path, cell(), "data.state_fields={fz: '/wrench:wrench.force.z'}")


def test_a_bag_without_a_message_is_reported_as_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty: it holds no message"):
        topics_of(tmp_path, Recording())
