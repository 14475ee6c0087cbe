"""The rules of a workflow that no JSON Schema can state: names, order, tokens, files and what differs by release.

Each rule is a generator of (keys of the part, what is wrong and what to write instead).
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from osmo.check.hints import DURATION
from osmo.check.template import JINJA, TOKEN, Keys

MAX_TASKS = 20  # max_num_tasks of a server that nobody has configured
FILE_BYTES = 1 << 20  # each file becomes a Kubernetes Secret
TOO_LARGE = "is larger than 1 MiB, which a Kubernetes Secret cannot hold; bring it as an input"
LIBRARY_IMAGES = {"alpine", "bash", "busybox", "debian", "fedora", "python", "ubuntu"}
DATASET_NAME = re.compile(r"([\w{}-]+/)?[\w{}-]+(:[\w{}-]*)?", re.ASCII)

Note = tuple[Keys, str]


class Task(NamedTuple):
    """A task of the file, the keys that lead to it, and the number of its group."""

    keys: Keys
    fields: dict[str, Any]
    group: int

    @property
    def name(self) -> str:
        """The task's name as text, whatever its type."""
        return str(self.fields.get("name"))


class Workflow:
    """A rendered workflow as the rules read it. Parts of the wrong type, which the schema reports, are left out."""

    def __init__(self, document: dict[str, Any], folder: Path, release: str) -> None:
        self.document, self.folder, self.release = document, folder, release
        self.groups: list[tuple[Keys, str]] = []
        self.tasks: list[Task] = []
        for number, group in enumerate(_mappings(document, "groups")):
            keys: Keys = ("workflow", "groups", number)
            self.groups.append((keys, str(group.get("name"))))
            self.tasks += [Task((*keys, "tasks", i), task, number) for i, task in enumerate(_mappings(group, "tasks"))]
        if not self.groups:  # OSMO puts every task into a group of its own
            tasks = _mappings(document, "tasks")
            self.tasks = [Task(("workflow", "tasks", i), task, i) for i, task in enumerate(tasks)]
            self.groups = [(task.keys, f"{task.fields.get('name')}-group") for task in self.tasks]

    def entries(self, kind: str) -> Iterator[tuple[Keys, Task, dict[str, Any]]]:
        """Yield (keys, task, entry) for every mapping in a list of the tasks, such as inputs."""
        for task in self.tasks:
            for index, entry in enumerate(_mappings(task.fields, kind)):
                yield (*task.keys, kind, index), task, entry


def _mappings(parent: Any, key: str) -> list[dict[str, Any]]:
    items = parent.get(key) if isinstance(parent, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _names(workflow: Workflow) -> Iterator[Note]:
    seen: dict[str, str] = {}
    named = [(keys, name, "group") for keys, name in workflow.groups]
    for keys, name, kind in [*named, *((task.keys, task.name, "task") for task in workflow.tasks)]:
        plain = name.lower().replace("_", "-")
        if plain in seen:
            yield (
                (*keys, "name"),
                f"{kind} {name} and {seen[plain]} share a name; names are unique over tasks and groups together, "
                "upper and lower case alike, - and _ alike",
            )
        seen.setdefault(plain, f"{kind} {name}")
    if len(workflow.tasks) > MAX_TASKS:
        yield ("workflow",), f"{len(workflow.tasks)} tasks: a workflow has at most {MAX_TASKS}; split it"


def _leads(workflow: Workflow) -> Iterator[Note]:
    for number, (keys, name) in enumerate(workflow.groups):
        tasks = [task for task in workflow.tasks if task.group == number]
        leads = sum(str(task.fields.get("lead")).lower() == "true" for task in tasks)
        if len(tasks) > 1 and leads != 1:
            yield keys, f"group {name} has {leads} leads: exactly one of its tasks takes lead: true"


def _resources(workflow: Workflow) -> Iterator[Note]:
    defined = workflow.document.get("resources")
    known = set(defined) if isinstance(defined, dict) else set()
    for task in workflow.tasks:
        name = task.fields.get("resource", "default")
        if name not in known:
            there = ", ".join(sorted(map(str, known))) or "none"
            yield (*task.keys, "resource"), f"resource {name} is not under workflow: resources: (there: {there})"


def _order(workflow: Workflow) -> Iterator[Note]:
    positions = {task.name: (position, task.group) for position, task in enumerate(workflow.tasks)}
    own_positions = {task.keys: position for position, task in enumerate(workflow.tasks)}
    for keys, task, entry in workflow.entries("inputs"):
        name = str(entry.get("task", ""))
        if not name or ":" in name:  # WORKFLOW_ID:TASK names an earlier run
            continue
        if name not in positions:
            yield keys, f"input task {name}: no such task; known: {', '.join(positions)}"
        elif positions[name][1] == task.group:
            yield keys, f"input task {name} is in the same group; tasks of a group start together and pass no outputs"
        elif positions[name][0] > own_positions[task.keys]:
            yield keys, f"input task {name} comes later in the file; write it before {task.name}"


def _hidden_order(workflow: Workflow) -> Iterator[Note]:
    writers: dict[str, str] = {}
    for _, task, entry in workflow.entries("outputs"):
        for kind in ("dataset", "update_dataset"):
            if isinstance(entry.get(kind), dict):
                writers[str(entry[kind].get("name")).split(":")[0]] = task.name
        if "url" in entry:
            writers[str(entry["url"]).rstrip("/")] = task.name
    for keys, task, entry in workflow.entries("inputs"):
        dataset = entry.get("dataset")
        source = str(entry.get("url")).rstrip("/")
        if isinstance(dataset, dict):
            source = str(dataset.get("name")).split(":")[0]
        writer = writers.get(source)
        if writer and writer != task.name:
            yield (
                keys,
                f"{source} is written by {writer}, which does not make {task.name} wait; write - task: {writer}",
            )


def _tokens(workflow: Workflow) -> Iterator[Note]:
    for task in workflow.tasks:
        inputs = _mappings(task.fields, "inputs")
        upstream = {str(entry["task"]) for entry in inputs if "task" in entry}
        siblings = {other.name for other in workflow.tasks if other.group == task.group}
        for keys, text in _texts(task.fields, task.keys):
            for match in TOKEN.finditer(text):
                kind, _, rest = match[1].partition(":")
                if kind == "uuid":
                    yield keys, "{{uuid}} is let through and never replaced; use {{workflow_id}}"
                elif kind == "input" and rest.isdecimal() and int(rest) >= len(inputs):
                    yield keys, f"{match[0]}: the task has {len(inputs)} inputs, counted from 0"
                elif kind == "input" and not rest.isdecimal() and rest not in upstream:
                    yield keys, f"{match[0]}: {rest} is no input task of {task.name}; add - task: {rest}"
                elif kind == "host" and rest not in siblings:
                    yield keys, f"{match[0]}: a host is known in its own group only ({', '.join(sorted(siblings))})"


def _texts(value: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(item, (*keys, key))


def _files(workflow: Workflow) -> Iterator[Note]:
    seen: set[tuple[Keys, str]] = set()
    for keys, task, entry in workflow.entries("files"):
        path = str(entry.get("path"))
        if (task.keys, path) in seen:
            yield keys, f"file {path} is given twice; each path once"
        seen.add((task.keys, path))
        if isinstance(entry.get("localpath"), str):
            yield from ((keys, message) for message in _local_file(workflow.folder / entry["localpath"]))
        elif len(str(entry.get("contents", ""))) > FILE_BYTES:
            yield keys, f"file {path} {TOO_LARGE}"


def _local_file(path: Path) -> Iterator[str]:
    if path.is_dir():
        yield (
            f"localpath {path} is a folder: files: takes one text file; bring folders with osmo data upload "
            "azure://ACCOUNT/CONTAINER/PATH FOLDER and inputs: - url: (up to 6.3 also - dataset: {name: N, localpath: FOLDER})"
        )
        return
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        yield f"localpath {path} does not exist; it is relative to the folder of the workflow file"
        return
    except (OSError, UnicodeDecodeError):
        yield f"localpath {path} is not one UTF-8 text file; bring other data by inputs: - url:"
        return
    if len(text.encode()) > FILE_BYTES:
        yield f"localpath {path} {TOO_LARGE}"
    for number, line in enumerate(text.splitlines(), 1):
        found = JINJA.search(TOKEN.sub("", line))
        if found:
            yield (
                f"localpath {path} holds {found[0]} in line {number}, which the server renders as Jinja; "
                "bake such a file into the image"
            )


def _datasets(workflow: Workflow) -> Iterator[Note]:
    for kind in ("inputs", "outputs"):
        for keys, _, entry in workflow.entries(kind):
            value = next((entry[word] for word in ("dataset", "update_dataset") if word in entry), None)
            if value is None:
                continue
            local = value.get("localpath") if isinstance(value, dict) else None
            if workflow.release >= "6.4":
                yield keys, f"datasets are gone in 6.4: {_without_datasets(kind, local)}"
            elif not isinstance(value, dict) or not DATASET_NAME.fullmatch(str(value.get("name"))):
                example = "with letters, digits, - and _, such as dataset: {name: ur10e-lerobot}"
                yield keys, f"dataset: expected {{name: NAME}} {example}"
            elif local and ":" in str(value["name"]):
                yield keys, f"dataset {value['name']} has a localpath, so its name takes no :tag"
            elif local and not (path := workflow.folder / local).exists():
                yield keys, f"localpath {path} does not exist; it is relative to the folder of the workflow file"


def _without_datasets(kind: str, local: object) -> str:
    if local:
        return f"osmo data upload azure://ACCOUNT/CONTAINER/bags {local}, then - url: azure://ACCOUNT/CONTAINER/bags"
    if kind == "inputs":
        return "osmo data upload azure://ACCOUNT/CONTAINER/PATH FOLDER, then - url: azure://ACCOUNT/CONTAINER/PATH"
    return "keep results with - url: azure://ACCOUNT/CONTAINER/PATH (here: --set results=url)"


def _release_differences(workflow: Workflow) -> Iterator[Note]:
    if "labels" in workflow.document and workflow.release <= "6.3":
        yield ("workflow", "labels"), f"labels: came with 6.4 and {workflow.release} refuses them; leave them out"
    if workflow.release <= "6.2":
        timeout = workflow.document.get("timeout")
        for key, value in (timeout if isinstance(timeout, dict) else {}).items():
            if str(value).startswith("P"):
                yield ("workflow", "timeout", key), f"{key}: {value}: ISO 8601 came with 6.3; {DURATION}"
    if workflow.release <= "6.1":
        resources = workflow.document.get("resources")
        for name, resource in (resources if isinstance(resources, dict) else {}).items():
            if isinstance(resource, dict) and "topology" in resource:
                yield ("workflow", "resources", name, "topology"), "topology came with 6.2; leave it out"


def _images(workflow: Workflow) -> Iterator[Note]:
    for task in workflow.tasks:
        image = task.fields.get("image")
        if isinstance(image, str) and "/" not in image and image.partition(":")[0] not in LIBRARY_IMAGES:
            yield (
                (*task.keys, "image"),
                f"image {image} is looked for on Docker Hub, never on this machine; write its registry too: "
                f"192.168.1.100:5000/{image}",
            )


RULES: tuple[Callable[[Workflow], Iterator[Note]], ...] = (
    _names, _leads, _resources, _order, _hidden_order, _tokens, _files, _datasets, _release_differences, _images,
)  # fmt: skip
