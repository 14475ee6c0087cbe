"""What strangers write as YAML is read, or is a YAMLError."""

import pytest
import yaml

from common.storage.foreign_yaml import load


@pytest.mark.parametrize(
    "text", ['!!int ""', "!!timestamp x", "!!float [1]", "!!binary 5", "!!set {a: 1", "a: &a [*a]"]
)
def test_a_value_that_is_not_what_its_tag_says_is_a_fault_of_the_document(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load(text)


def test_a_document_is_its_nodes_and_its_content() -> None:
    node, content = load("a: [1, two]")
    assert content == {"a": [1, "two"]}
    assert isinstance(node, yaml.MappingNode)
