"""What the settings of data must agree on; each function raises ValueError naming the key, the value and what was expected."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stage1_convert.config.names import COMMAND, FIELD_PATH, JOINTS

if TYPE_CHECKING:
    from stage1_convert.config.data import DataConfig


def check_names(data: "DataConfig") -> None:
    """Refuse names of streams that cannot become columns, and fields without a topic and a path."""
    taken: dict[str, str] = {}
    named = {"cameras": data.cameras, "state_fields": data.state_fields, "action_paths": data.action_paths}
    for key, sources in named.items():
        for name, source in sources.items():
            if not re.fullmatch(r"\w+", name, re.ASCII) or name in (JOINTS, COMMAND):
                raise ValueError(
                    f"data.{key}.{name}: expected a name of letters, digits and _, other than {JOINTS!r} "
                    f"and {COMMAND!r}"
                )
            if name in taken:
                owner = "a camera" if taken[name] == "cameras" else "a state field"
                raise ValueError(f"data.{key}.{name}: {owner} has this name; expected another one")
            if key != "cameras" and not FIELD_PATH.fullmatch(source):
                raise ValueError(f"data.{key}.{name}={source}: expected TOPIC:path, such as /gripper/state:data")
            taken[name] = key


def check_encodings(data: "DataConfig") -> None:
    """Refuse encodings and ranges of gray for cameras that do not exist, and ranges that are empty."""
    for key, names in (("encodings", data.encodings), ("mono16_range", data.mono16_range)):
        for name in names:
            if name not in data.cameras:
                raise ValueError(f"data.{key}.{name}: no such camera; there are {', '.join(data.cameras)}")
    for name, ends in data.mono16_range.items():
        if len(ends) != 2 or ends[0] >= ends[1]:
            raise ValueError(f"data.mono16_range.{name}={ends}: expected [low, high], such as [0, 4095]")


def check_streams(data: "DataConfig") -> None:
    """Refuse settings for streams that do not exist, and rules that do not suit a stream."""
    by_stream: dict[str, Mapping[str, Any]] = {
        "resample_by_stream": data.resample_by_stream,
        "max_age_ms_by_stream": data.max_age_ms_by_stream,
        "time_source_by_stream": data.time_source_by_stream,
    }
    for key, values in by_stream.items():
        for name in values:
            is_joint = key == "max_age_ms_by_stream" and name.startswith((f"{JOINTS}.", f"{COMMAND}."))
            if name not in data.streams and not is_joint:
                raise ValueError(f"data.{key}.{name}: no such stream; there are {', '.join(data.streams)}")
    for name, rule in data.resample_by_stream.items():
        if name in data.cameras and rule == "linear":
            raise ValueError(
                f"data.resample_by_stream.{name}=linear: expected auto, in_order, hold or nearest for images"
            )
        if name not in data.cameras and rule == "in_order":
            raise ValueError(
                f"data.resample_by_stream.{name}=in_order: expected auto, hold, nearest or linear for numbers"
            )

    for name in data.initial_values:
        if name not in data.state_fields:
            known = ", ".join(data.state_fields) or "none"
            raise ValueError(f"data.initial_values.{name}: no name of data.state_fields; they are {known}")
        if data.resample_by_stream.get(name, data.resample) == "linear":
            raise ValueError(f"data.initial_values.{name}: expected data.resample_by_stream.{name}=hold, not linear")


def check_episodes(data: "DataConfig") -> None:
    """Refuse numbers of episodes that no bag has."""
    for name, numbers in data.episodes.items():
        if not numbers or min(numbers) < 0:
            raise ValueError(
                f"data.episodes.{name}={numbers}: expected numbers from 0 on; data.exclude leaves out whole bags"
            )


def check_task(data: "DataConfig") -> None:
    """Refuse a task without words, and a pattern that does not give exactly one."""
    if not data.task.strip():
        raise ValueError("data.task is empty: expected a sentence that says what the demonstrations show")
    if (data.task_from == "folder") != (data.task_pattern is not None):
        raise ValueError("data.task_pattern: expected together with data.task_from=folder, and only then")
    if data.task_pattern is not None:
        try:
            groups = re.compile(data.task_pattern).groups
        except re.error as error:
            raise ValueError(f"data.task_pattern={data.task_pattern}: {error}") from error
        if groups != 1:
            raise ValueError(f"data.task_pattern={data.task_pattern}: expected exactly one group, the task")
