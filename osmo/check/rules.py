"""The rules of a workflow that no JSON Schema can state: names, order, tokens, files and what differs by release.

Each rule is a generator of (keys of the part, what is wrong and what to write instead). A release refuses a workflow that
breaks one of RULES; it takes one that breaks one of HINTS, but probably not as it was meant.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from osmo.check.hints import DURATION
from osmo.check.template import JINJA, TOKEN, Keys, TemplateError, is_true, render_text

MAX_TASKS = 20  # max_num_tasks of a server that nobody has configured
FILE_BYTES = 1 << 20  # each file becomes a Kubernetes Secret
OFFICIAL_IMAGES = ("alpine", "bash", "busybox", "debian", "python", "ros", "ubuntu")  # of Docker Hub, for a task

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

    def __init__(self, document: dict[str, Any], folder: Path, release: str, values: Mapping[str, Any]) -> None:
        self.document, self.folder, self.release = document, folder, release
        self.values = values  # of --set
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
        leads = sum(is_true(task.fields.get("lead")) for task in tasks)
        if len(tasks) > 1 and leads != 1:
            yield keys, f"group {name} has {leads} leads: exactly one of its tasks takes lead: true"


def _resources(workflow: Workflow) -> Iterator[Note]:
    defined = workflow.document.get("resources", {"default": {}})
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
    writers: dict[str, Task] = {}
    for _, task, entry in workflow.entries("outputs"):
        writers |= dict.fromkeys(_sources(entry), task)
    waits = _groups_waited_for(workflow)
    for keys, task, entry in workflow.entries("inputs"):
        for source in _sources(entry):
            writer = writers.get(source, task)
            # Not where the advice is followed already, and not where it would make the writer wait for its own results.
            if task.group not in waits[writer.group] and writer.group not in {task.group, *waits[task.group]}:
                advice = f"which does not make {task.name} wait; write - task: {writer.name}"
                yield keys, f"{source} is written by {writer.name}, {advice}"


def _sources(entry: dict[str, Any]) -> Iterator[str]:
    """Yield what an input reads or an output writes; a dataset of a fixed version, NAME:TAG, is never written anew."""
    for kind in ("dataset", "update_dataset"):
        if isinstance(entry.get(kind), dict) and ":" not in str(entry[kind].get("name")):
            yield str(entry[kind].get("name"))
    if "url" in entry:
        yield str(entry["url"]).rstrip("/")


def _groups_waited_for(workflow: Workflow) -> dict[int, set[int]]:
    """Return the groups that each group waits for, directly or through others, which stand earlier in the file."""
    groups = {task.name: task.group for task in workflow.tasks}
    waits: dict[int, set[int]] = {group: set() for group in range(len(workflow.groups))}
    for _, task, entry in workflow.entries("inputs"):
        upstream = groups.get(str(entry.get("task")))
        waits[task.group] |= {upstream, *waits[upstream]} if upstream is not None else set()
    return waits


def _tokens(workflow: Workflow) -> Iterator[Note]:
    for task in workflow.tasks:
        inputs = _mappings(task.fields, "inputs")
        upstream = {str(entry["task"]).rpartition(":")[2] for entry in inputs if "task" in entry}
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
            yield from ((keys, message) for message in _local_file(workflow, workflow.folder / entry["localpath"]))


def _local_file(workflow: Workflow, path: Path) -> Iterator[str]:
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
        yield f"localpath {path} is larger than 1 MiB, which a Kubernetes Secret cannot hold; bring it as an input"
    if error := _second_pass_error(text, workflow):
        yield f"localpath {path} {error}; bake such a file into the image"


def _second_pass(workflow: Workflow) -> Iterator[Note]:
    for keys, text in _texts(workflow.document, ("workflow",)):
        if error := _second_pass_error(text, workflow):
            yield keys, error


def _second_pass_error(text: str, workflow: Workflow) -> str | None:
    for number, line in enumerate(text.splitlines(), 1):
        if found := JINJA.search(TOKEN.sub("", line)):
            try:
                render_text(text, workflow.values)
            except TemplateError as error:
                where = f"holds {found[0]} in line {number}, which the server renders as Jinja"
                return f"{where} in a second pass, with the values of --set only: {error}"
    return None


def _datasets(workflow: Workflow) -> Iterator[Note]:
    local_files = [entry["localpath"] for _, _, entry in workflow.entries("files") if "localpath" in entry]
    for kind in ("inputs", "outputs"):
        for keys, _, entry in workflow.entries(kind):
            value = next((entry[word] for word in ("dataset", "update_dataset") if word in entry), None)
            local = value.get("localpath") if isinstance(value, dict) else None
            if workflow.release >= "6.4":
                if entry.keys() & {"dataset", "update_dataset"}:
                    yield keys, f"datasets are gone in 6.4: {_without_datasets(kind, local)}"
            elif isinstance(local, str):
                if not (path := workflow.folder / local).exists():
                    yield keys, f"localpath {path} does not exist; it is relative to the folder of the workflow file"
                if local_files:
                    yield (
                        keys,
                        f"a dataset with a localpath and a file with one ({local_files[0]}) cannot be submitted together: "
                        "the command line posts the workflow once before it inlines the file; write the file's text below "
                        "contents:, or bring the folder by - url:",
                    )


def _without_datasets(kind: str, local: object) -> str:
    if local:
        return f"osmo data upload azure://ACCOUNT/CONTAINER/bags {local}, then - url: azure://ACCOUNT/CONTAINER/bags"
    if kind == "inputs":
        return "osmo data upload azure://ACCOUNT/CONTAINER/PATH FOLDER, then - url: azure://ACCOUNT/CONTAINER/PATH"
    return "keep results with - url: azure://ACCOUNT/CONTAINER/PATH (here: --set results=url)"


def _release_differences(workflow: Workflow) -> Iterator[Note]:
    if workflow.release <= "6.2":
        durations = [(keys, entry) for keys, _, entry in workflow.entries("checkpoint")]
        if isinstance(timeout := workflow.document.get("timeout"), dict):
            durations.append((("workflow", "timeout"), timeout))
        for keys, entry in durations:
            for key in ("exec_timeout", "queue_timeout", "frequency"):
                if str(entry.get(key)).startswith("P"):
                    yield (*keys, key), f"{key}: {entry[key]}: ISO 8601 came with 6.3; {DURATION}"
    if workflow.release <= "6.1":
        resources = workflow.document.get("resources")
        for name, resource in (resources if isinstance(resources, dict) else {}).items():
            if isinstance(resource, dict) and "topology" in resource:
                yield ("workflow", "resources", name, "topology"), "topology came with 6.2; leave it out"
    if workflow.release == "6.0":
        for task in workflow.tasks:
            image = str(task.fields.get("image"))
            if re.search(r"^[^/.]+:\d+/|:.$", image):
                says = "6.0 wants a dot in the name of a registry with a port, and two characters in a tag"
                yield (*task.keys, "image"), f"image {image}: {says}"


def _images(workflow: Workflow) -> Iterator[Note]:
    for task in workflow.tasks:
        image = str(task.fields.get("image"))
        if "/" not in image and image.partition(":")[0] not in OFFICIAL_IMAGES:
            yield (
                (*task.keys, "image"),
                f"image {image} is looked for on Docker Hub, never on this machine; write its registry too: "
                f"REGISTRY:PORT/{image}",
            )


def _ignored(workflow: Workflow) -> Iterator[Note]:
    for task in workflow.tasks:
        for key, instead in IGNORED_KEYS.items():
            if key in task.fields:
                yield (*task.keys, key), f"OSMO silently ignores a task's own {key}; {instead}"
    for keys, _, entry in workflow.entries("outputs"):
        if "url" in entry and "," in str(entry.get("regex")):
            yield (*keys, "regex"), f"regex: {entry['regex']!r}: that of an output must not contain a comma"


IGNORED_KEYS = {
    "resources": "name them under workflow: resources: and write resource: NAME",
    "backend": "choose the pool with --pool",
}
Rules = tuple[Callable[[Workflow], Iterator[Note]], ...]
RULES: Rules = (_names, _leads, _resources, _order, _files, _second_pass, _datasets, _release_differences)
HINTS: Rules = (_hidden_order, _tokens, _images, _ignored)
