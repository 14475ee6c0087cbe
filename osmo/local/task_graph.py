"""Reads a rendered workflow into groups, their tasks and the groups that each waits for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from osmo.check.template import TOKEN, is_true

UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Checkpoint(NamedTuple):
    """A folder of the container that is copied to a url periodically, and once more at the end."""

    path: str
    url: str
    period_s: float
    regex: str | None


@dataclass(frozen=True)
class Task:
    """One process of the workflow, with its tokens not yet replaced."""

    name: str
    words: list[str]
    is_lead: bool
    environment: dict[str, str]
    credentials: dict[str, Any]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    files: list[dict[str, Any]]
    exit_actions: dict[str, str]
    checkpoints: list[Checkpoint]

    def action(self, code: int) -> str:
        """Return what an exit code leads to: COMPLETE, FAIL or RESCHEDULE."""
        for action, codes in self.exit_actions.items():
            for part in codes.split(","):
                low, _, high = part.partition("-")
                if int(low) <= code <= int(high or low):
                    return action
        return "FAIL" if code else "COMPLETE"


@dataclass(frozen=True)
class Group:
    """Tasks that start together; a task that stands alone is a group of one."""

    name: str
    tasks: list[Task]
    ignores_nonlead: bool
    needs: list[str]  # groups that must have completed

    @property
    def lead(self) -> Task:
        """The task whose end is the end of the group."""
        return next(task for task in self.tasks if task.is_lead)


class TaskGraph(NamedTuple):
    """A workflow that can be run; `written_urls` are those that its own tasks write."""

    groups: list[Group]
    exec_timeout_s: float
    written_urls: list[str]

    @property
    def tasks(self) -> list[Task]:
        """All tasks in the order of the file."""
        return [task for group in self.groups for task in group.tasks]

    @property
    def width(self) -> int:
        """The largest number of tasks that may run at the same time."""
        depth: dict[str, int] = {}
        for group in self.groups:
            depth[group.name] = 1 + max((depth[need] for need in group.needs), default=0)
        return max(sum(len(g.tasks) for g in self.groups if depth[g.name] == level) for level in set(depth.values()))


def read_graph(document: Mapping[str, Any]) -> TaskGraph:
    """Read the workflow that `template.submitted` returned; it has passed the checks."""
    workflow = document["workflow"]
    described = workflow.get("groups") or [
        {"name": f"{task['name']}-group", "tasks": [task]} for task in workflow["tasks"]
    ]
    groups: list[Group] = []
    group_of: dict[str, str] = {}
    for group in described:
        tasks = [_read_task(task, len(group["tasks"]) == 1) for task in group["tasks"]]
        upstream = [entry["task"] for task in tasks for entry in task.inputs if "task" in entry]
        needs = list(dict.fromkeys(group_of[name] for name in upstream if ":" not in name))
        groups.append(Group(group["name"], tasks, is_true(group.get("ignoreNonleadStatus", True)), needs))
        group_of |= {task.name: group["name"] for task in tasks}
    all_tasks = [task for group in groups for task in group.tasks]
    urls = [entry["url"] for task in all_tasks for entry in task.outputs if "url" in entry]
    urls += [checkpoint.url for task in all_tasks for checkpoint in task.checkpoints]
    return TaskGraph(groups, seconds(workflow.get("timeout", {}).get("exec_timeout", "60d")), urls)


def seconds(text: str | float) -> float:
    """Return the seconds of an OSMO duration: a number, `90m`, or ISO 8601 such as `PT1H30M`."""
    if isinstance(text, int | float):
        return float(text)
    match = re.fullmatch(r"(\d+)\s*(us|ms|[smhd])?", text)
    if match:
        return int(match[1]) * UNITS_S[match[2] or "s"]
    parts = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?", text)
    assert parts, f"{text}: the check refuses other durations"
    return sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True))


def fill(value: Any, tokens: Mapping[str, str]) -> Any:
    """Replace the tokens in every text of a value; an unknown token stays as it is, as in OSMO."""
    if isinstance(value, str):
        return TOKEN.sub(lambda match: tokens.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {key: fill(item, tokens) for key, item in value.items()}
    return [fill(item, tokens) for item in value] if isinstance(value, list) else value


def _read_task(task: Mapping[str, Any], is_alone: bool) -> Task:
    checkpoints = [
        Checkpoint(entry["path"], entry["url"], seconds(entry["frequency"]), entry.get("regex"))
        for entry in task.get("checkpoint", ())
    ]
    environment = task.get("environment", {}).items()
    return Task(
        name=task["name"],
        words=[str(word) for word in [*task["command"], *task.get("args", ())]],
        is_lead=is_alone or is_true(task.get("lead", False)),
        environment={key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in environment},
        credentials=dict(task.get("credentials", {})),
        inputs=list(task.get("inputs", ())),
        outputs=list(task.get("outputs", ())),
        files=list(task.get("files", ())),
        exit_actions={key.upper(): str(value) for key, value in task.get("exitActions", {}).items()},
        checkpoints=checkpoints,
    )
