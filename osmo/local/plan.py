"""A workflow as the server has it in; its groups, their tasks and what each waits for out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from osmo.check.template import TOKEN

ACTIONS = ("COMPLETE", "FAIL", "RESCHEDULE")
UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Checkpoint(NamedTuple):
    """A folder of the container that is copied to a url every so often, and once more at the end."""

    path: str
    url: str
    every_s: float
    regex: str | None


@dataclass(frozen=True)
class Task:
    """One process of the workflow, its tokens not yet replaced."""

    name: str
    words: list[str]
    lead: bool
    environment: dict[str, str]
    credentials: dict[str, Any]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    files: list[dict[str, Any]]
    exit_actions: dict[str, str]
    checkpoints: list[Checkpoint]

    def action(self, code: int) -> str:
        """What an exit code leads to: COMPLETE, FAIL or RESCHEDULE."""
        for action, codes in self.exit_actions.items():
            for part in codes.split(","):
                low, _, high = part.partition("-")
                if int(low) <= code <= int(high or low):
                    return action
        return "FAIL" if code else "COMPLETE"

    @property
    def upstream(self) -> list[str]:
        """The tasks whose outputs this one reads."""
        return [entry["task"] for entry in self.inputs if "task" in entry]


@dataclass(frozen=True)
class Group:
    """Tasks that start together; a task that stands alone is a group of one."""

    name: str
    tasks: list[Task]
    ignore_nonlead: bool
    needs: list[str] = field(default_factory=list)  # groups that must have completed

    @property
    def lead(self) -> Task:
        """The task whose end is the group's."""
        return next(task for task in self.tasks if task.lead)


class TaskGraph(NamedTuple):
    """A workflow that can be run; `written_urls` are those its own tasks write below."""

    name: str
    groups: list[Group]
    exec_timeout_s: float
    written_urls: list[str]

    @property
    def tasks(self) -> list[Task]:
        """All tasks in the file's order."""
        return [task for group in self.groups for task in group.tasks]

    @property
    def width(self) -> int:
        """The most tasks that nothing keeps from running at once."""
        depth: dict[str, int] = {}
        for group in self.groups:
            depth[group.name] = 1 + max((depth[need] for need in group.needs), default=0)
        return max(sum(len(g.tasks) for g in self.groups if depth[g.name] == level) for level in set(depth.values()))


def make_plan(document: Mapping[str, Any]) -> TaskGraph:
    """Read the workflow that `template.submitted` gave; it has passed the checks."""
    workflow = document["workflow"]
    described = workflow.get("groups") or [
        {"name": f"{task['name']}-group", "tasks": [task]} for task in workflow["tasks"]
    ]
    groups: list[Group] = []
    home: dict[str, str] = {}
    for group in described:
        tasks = [_task(task, len(group["tasks"]) == 1) for task in group["tasks"]]
        needs = list(dict.fromkeys(home[name] for task in tasks for name in task.upstream if ":" not in name))
        groups.append(Group(group["name"], tasks, _is_true(group.get("ignoreNonleadStatus", True)), needs))
        home |= {task.name: group["name"] for task in tasks}
    everything = [task for group in groups for task in group.tasks]
    urls = [entry["url"] for task in everything for entry in task.outputs if "url" in entry]
    urls += [checkpoint.url for task in everything for checkpoint in task.checkpoints]
    timeout = workflow.get("timeout", {}).get("exec_timeout", "60d")
    return TaskGraph(workflow["name"], groups, seconds(timeout), urls)


def seconds(text: str | float) -> float:
    """Return the seconds of an OSMO duration: a number, `90m`, or ISO 8601 such as `PT1H30M`."""
    if isinstance(text, int | float):
        return float(text)
    match = re.fullmatch(r"(\d+)(us|ms|[smhd])?", text)
    if match:
        return int(match[1]) * UNITS_S[match[2] or "s"]
    parts = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?", text)
    assert parts, f"{text}: the check refuses other durations"
    return sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True))


def fill(value: Any, tokens: Mapping[str, str]) -> Any:
    """Replace the tokens in every text of a value; one that is not known stays as it is, as in OSMO."""
    if isinstance(value, str):
        return TOKEN.sub(lambda match: tokens.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {key: fill(item, tokens) for key, item in value.items()}
    return [fill(item, tokens) for item in value] if isinstance(value, list) else value


def _task(task: Mapping[str, Any], alone: bool) -> Task:
    checkpoints = [
        Checkpoint(entry["path"], entry["url"], seconds(entry["frequency"]), entry.get("regex"))
        for entry in task.get("checkpoint", ())
    ]
    return Task(
        name=task["name"],
        words=[str(word) for word in [*task["command"], *task.get("args", ())]],
        lead=alone or _is_true(task.get("lead", False)),
        environment={key: _text(value) for key, value in task.get("environment", {}).items()},
        credentials=dict(task.get("credentials", {})),
        inputs=list(task.get("inputs", ())),
        outputs=list(task.get("outputs", ())),
        files=list(task.get("files", ())),
        exit_actions={key.upper(): str(value) for key, value in task.get("exitActions", {}).items()},
        checkpoints=checkpoints,
    )


def _is_true(value: object) -> bool:
    return str(value).lower() == "true"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
