"""Names of values as other tools write them."""

from pathlib import Path
from typing import Any

import pytest

from common.lerobot.dataset import Dataset
from common.lerobot.metadata import ACTION, STATE
from common.lerobot.names import value_names
from tests.common.lerobot.foreign import change_info

SIX = ("a", "b", "c", "d", "e", "f")


@pytest.mark.parametrize(
    ("declared", "names", "is_odd"),
    [
        (list(SIX), SIX, False),
        ([list(SIX)], SIX, False),
        ({"motors": list(SIX)}, SIX, False),
        ({"arm": list(SIX[:5]), "gripper": ["f"]}, SIX, False),
        ({"axes": {"b": 1, "a": 0, "c": 2, "d": 3, "e": 4, "f": 5}}, SIX, False),
        ("joint", tuple(f"joint_{i}" for i in range(6)), True),
        (["pos"], tuple(f"pos_{i}" for i in range(6)), True),
        (["a", "b"], None, True),
        (
            ["a", "gripper", "c", "gripper", "gripper_2", "f"],
            ("a", "gripper", "c", "gripper_3", "gripper_2", "f"),
            True,
        ),
        (["a", "b", "c", "d", "gripper", "gripper"], ("a", "b", "c", "d", "gripper", "gripper_2"), True),
        ([1, 2, 3, 4, 5, 6], tuple("123456"), False),
        (None, None, False),
        ([], None, False),
        ([""] * 6, None, False),
    ],
)
def test_names_become_one_word_for_each_value(declared: Any, names: tuple[str, ...] | None, is_odd: bool) -> None:
    found, odd = value_names(declared, 6)
    assert found == names
    assert (odd is not None) == is_odd


def test_a_dataset_with_unusual_names_opens_with_one_warning(
    image_dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def rename(info: dict[str, Any]) -> None:
        for key in (STATE, ACTION):
            info["features"][key]["names"] = "joint_angles"

    change_info(image_dataset, rename)
    assert Dataset.open(image_dataset).joint_names == tuple(f"joint_angles_{i}" for i in range(6))
    assert len([record for record in caplog.records if "unusual names" in record.message]) == 1
