"""Reads a rendered workflow into groups of tasks. Keys that mean something in the cluster only, such as image, are left out."""

import re
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter

from common.cli.validation import validate
from osmo.check.template import TOKEN, all_tasks, is_true

UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: str | float) -> float:
    """Return the seconds of an OSMO duration: a number, `90m`, or ISO 8601 such as `PT1H30M`."""
    if match := re.fullmatch(r"(\d+)\s*(us|ms|[smhd])?", str(value)):
        return int(match[1]) * UNITS_S[match[2] or "s"]
    return TypeAdapter(timedelta).validate_python(value).total_seconds()


def _environment_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


Text = Annotated[str, BeforeValidator(str)]
EnvironmentText = Annotated[str, BeforeValidator(_environment_text)]
Boolean = Annotated[bool, BeforeValidator(is_true)]
Seconds = Annotated[float, BeforeValidator(seconds)]


class Dataset(BaseModel, frozen=True):
    """An OSMO dataset that is read or written."""

    name: str  # [BUCKET/]NAME[:TAG]
    path: Text = ""
    regex: str = ""
    localpath: Path | None = None


class Entry(BaseModel, frozen=True):
    """A line of `inputs` or `outputs`, with one of the first four keys."""

    task: str | None = None
    url: str | None = None
    dataset: Dataset | None = None
    update_dataset: Dataset | None = None
    regex: str = ""


class File(BaseModel, frozen=True):
    """A file that the task finds in its container."""

    path: Text
    contents: Text
    base64: Boolean = False


class Checkpoint(BaseModel, frozen=True):
    """A folder of the container that is copied to a url periodically, and once more at the end."""

    path: Text
    url: str
    frequency: Seconds
    regex: str = ""


class Task(BaseModel, frozen=True):
    """One process of the workflow."""

    name: str
    command: list[Text]
    args: list[Text] = []
    lead: Boolean = False
    environment: dict[str, EnvironmentText] = {}
    credentials: dict[str, str | dict[str, str]] = {}  # name -> where it is mounted, or variable -> key of the payload
    inputs: list[Entry] = []
    outputs: list[Entry] = []
    files: list[File] = []
    exit_actions: dict[str, Text] = Field({}, alias="exitActions")
    checkpoints: list[Checkpoint] = Field([], alias="checkpoint")

    def action(self, code: int) -> str:
        """Return what an exit code leads to: COMPLETE, FAIL or RESCHEDULE."""
        for action, codes in self.exit_actions.items():
            for part in codes.split(","):
                low, _, high = part.partition("-")
                if int(low) <= code <= int(high or low):
                    return action.upper()
        return "FAIL" if code else "COMPLETE"

    def filled(self, tokens: Mapping[str, str]) -> Self:
        """Return the task with its tokens replaced."""
        return self.model_validate(_fill(self.model_dump(by_alias=True), tokens))


class Group(BaseModel, frozen=True):
    """Tasks that start together; a task that stands alone is a group of one."""

    name: str
    tasks: list[Task]
    ignores_nonlead: Boolean = Field(True, alias="ignoreNonleadStatus")

    @property
    def lead(self) -> Task:
        """The task whose end is the end of the group."""
        return next((task for task in self.tasks if task.lead), self.tasks[0])

    @property
    def needs(self) -> set[str]:
        """The tasks that must have completed."""
        return {entry.task for task in self.tasks for entry in task.inputs if entry.task and ":" not in entry.task}


class TaskGraph(NamedTuple):
    """A workflow that can be run."""

    groups: list[Group]

    @property
    def tasks(self) -> list[Task]:
        """All tasks in the order of the file."""
        return [task for group in self.groups for task in group.tasks]

    @property
    def written_urls(self) -> list[str]:
        """The urls that the tasks write."""
        written = [entry.url for task in self.tasks for entry in task.outputs if entry.url]
        return written + [checkpoint.url for task in self.tasks for checkpoint in task.checkpoints]

    @property
    def width(self) -> int:
        """The largest number of tasks that may run at the same time."""
        depth: dict[str, int] = {}
        for group in self.groups:
            level = 1 + max((depth[name] for name in group.needs), default=0)
            depth |= {task.name: level for task in group.tasks}
        return max(Counter(depth.values()).values())


def read_graph(document: Mapping[str, Any], workflow_id: str) -> TaskGraph:
    """Read the workflow that `template.submitted` returned; it has passed the checks."""
    hosts = {f"host:{task['name']}": "127.0.0.1" for task in all_tasks(document)}
    workflow = _fill(document["workflow"], {"workflow_id": workflow_id, **hosts})
    groups = workflow.get("groups") or [
        {"name": f"{task['name']}-group", "tasks": [task]} for task in workflow["tasks"]
    ]
    return TaskGraph(validate(list[Group], groups, "workflow: "))


def _fill(value: Any, tokens: Mapping[str, str]) -> Any:
    """Replace the tokens in every text of a value; an unknown token stays as it is, as in OSMO."""
    if isinstance(value, str):
        return TOKEN.sub(lambda match: tokens.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {key: _fill(item, tokens) for key, item in value.items()}
    return [_fill(item, tokens) for item in value] if isinstance(value, list) else value
