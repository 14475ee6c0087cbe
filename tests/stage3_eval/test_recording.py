"""Which values of the state are positions of the action's joints."""

from dataclasses import replace

import numpy as np
import pytest

from common.lerobot.dataset import Dataset
from common.lerobot.metadata import ACTION, STATE, Feature
from stage3_eval.recording import positions
from tests.conftest import GOLDEN

STATES = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("state_names", "action_names", "meaning", "columns"),
    [
        (("x", "y", "b"), ("b", "x"), None, [2, 0]),
        (("a", "b", "gripper"), ("a", "b", "gripper"), None, [0, 1, 2]),
        (("x", "y", "z"), ("a", "b", "c"), "delta", None),  # as many values, of something else
        (None, None, "delta", [0, 1, 2]),
        (None, ("a", "b", "c"), "next_position", [0, 1, 2]),
        (None, None, None, None),
        (None, ("a", "b"), "delta", None),
    ],
)
def test_names_or_the_meaning_of_actions_decide(
    state_names: tuple[str, ...] | None,
    action_names: tuple[str, ...] | None,
    meaning: str | None,
    columns: list[int] | None,
) -> None:
    size = len(action_names or "abc")
    features = {STATE: Feature("float32", (3,), state_names, {}), ACTION: Feature("float32", (size,), action_names, {})}
    found = positions(replace(Dataset.open(GOLDEN / "dataset_image"), features=features), STATES, meaning)
    if columns is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, STATES[:, columns])
