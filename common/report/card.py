"""Cards: the README.md that the Hugging Face hub shows of a dataset or a model, with the hub's metadata in its first lines."""

from collections.abc import Mapping
from typing import Any

import yaml

CARD = "README.md"
# What the numbers of an action are, by its declared meaning.
ACTIONS = {
    "delta": "the change of each joint to the next frame",
    "next_position": "the position of each joint at the next frame",
    "command": "the command that the recording holds for the frame",
}


def front_matter(metadata: Mapping[str, Any]) -> str:
    """Return a card's first lines: `metadata` as YAML between two rules.

    A key whose value is None is written as a comment, for a person to fill in: the hub refuses a key without a value.
    """
    lines = [
        yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=1000).rstrip()
        if value is not None
        else f"# {key}: fill this in before you publish"
        for key, value in metadata.items()
    ]
    return "\n".join(["---", *lines, "---"])
