"""A workflow file and a release of OSMO in; everything that this release would refuse or do otherwise than it reads, out.

The rules are those of OSMO 6.0 to 6.4: two JSON Schemas for the form, and code for what spans the file.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator, FormatChecker

from osmo.check.hints import DURATION, explain
from osmo.check.template import JINJA, TOKEN, Keys, Rendered, Template, TemplateError, read

RELEASES = ("6.0", "6.1", "6.2", "6.3", "6.4")
MAX_TASKS = 20  # max_num_tasks of a server that nobody has configured
FILE_BYTES = 1 << 20  # each file becomes a Kubernetes Secret
LIBRARY_IMAGES = {"alpine", "bash", "busybox", "debian", "fedora", "python", "ubuntu"}
HERE = Path(__file__).parent

Note = tuple[Keys, str]


class Finding(NamedTuple):
    """One thing that is wrong, and the line of the file it stands on."""

    line: int
    message: str


def check(path: Path, release: str, values: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with the file, rendered with `values`, for one release; nothing when it would be accepted."""
    return check_releases(path, (release,), values)[release]


def check_releases(path: Path, releases: Sequence[str], values: Mapping[str, Any]) -> dict[str, list[Finding]]:
    """Return the findings of `check` for several releases, rendering the file once."""
    try:
        template = read(path)
        rendered = template.render(values)
    except TemplateError as error:
        return {release: [Finding(error.line or 1, str(error))] for release in releases}
    return {release: _judge(path, template, rendered, release) for release in releases}


def _judge(path: Path, template: Template, rendered: Rendered, release: str) -> list[Finding]:
    notes: list[Note] = [(keys, f"{keys[-1]} is given twice; YAML keeps the last") for keys in rendered.twice]
    notes += _form(rendered.document, release)
    if isinstance(rendered.document, dict) and isinstance(rendered.document.get("workflow"), dict):
        notes += _about_the_file(template, release)
        for rule in RULES:
            notes += rule(Workflow(rendered, path.parent, release))
    found = {Finding(rendered.line(keys), message) for keys, message in notes}
    return sorted(found)


class Workflow:
    """A rendered document as the rules look at it; parts of the wrong type, which the schema has named, are left out."""

    def __init__(self, rendered: Rendered, folder: Path, release: str) -> None:
        self.folder, self.release = folder, release
        self.document = rendered.document["workflow"]
        self.tasks: list[tuple[Keys, dict[str, Any], int]] = []  # keys, task, number of its group
        self.groups: list[tuple[Keys, str]] = []
        for place, group in enumerate(_list(self.document, "groups")):
            keys: Keys = ("workflow", "groups", place)
            self.groups.append((keys, str(group.get("name"))))
            self.tasks += [((*keys, "tasks", i), task, place) for i, task in enumerate(_list(group, "tasks"))]
        if not self.groups:
            plain = [(("workflow", "tasks", i), task, i) for i, task in enumerate(_list(self.document, "tasks"))]
            self.tasks = [(keys, task, i) for keys, task, i in plain]
            self.groups = [(keys, f"{task.get('name')}-group") for keys, task, _ in plain]

    def entries(self, kind: str) -> Iterator[tuple[Keys, dict[str, Any], dict[str, Any]]]:
        """Yield (keys, task, entry) of every mapping in a list of the tasks, such as inputs."""
        for keys, task, _ in self.tasks:
            for place, entry in enumerate(_list(task, kind)):
                yield (*keys, kind, place), task, entry


def _list(mapping: Any, key: str) -> list[dict[str, Any]]:
    items = mapping.get(key) if isinstance(mapping, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


@functools.cache
def _validator(has_datasets: bool) -> Draft202012Validator:
    name = "workflow.le-6.3.schema.json" if has_datasets else "workflow.schema.json"
    return Draft202012Validator(json.loads((HERE / name).read_text()), format_checker=FormatChecker(["regex"]))


def _form(document: Any, release: str) -> Iterator[Note]:
    if not isinstance(document, dict):
        yield (), "expected a mapping with workflow: and default-values:"
        return
    shown = dict(document)
    for key in document.keys() - {"workflow", "version", "default-values"}:
        del shown[key]
        if release >= "6.2":  # 6.0 and 6.1 do not look
            yield (key,), f"unknown top-level key {key}: the file's sections are workflow: and default-values:"
    for error in _validator(release <= "6.3").iter_errors(shown):
        for keys, message in explain(error):
            if not (release <= "6.2" and _coerced_before_6_3(keys, document)) and not _said_by_a_rule(keys, document):
                yield keys, message


def _coerced_before_6_3(keys: Keys, document: Any) -> bool:
    value = _at(keys, document)
    is_word = len(keys) > 1 and keys[-2] in ("args", "command") and isinstance(value, bool)
    return is_word or (keys[-1:] in (("cpu",), ("gpu",)) and isinstance(value, float))


def _said_by_a_rule(keys: Keys, document: Any) -> bool:
    """Whether a rule below says it better: datasets and labels where a release has none."""
    value = _at(keys, document)
    named = [*keys, *(value if isinstance(value, dict) else ())]
    return "dataset" in named or "update_dataset" in named or keys == ("workflow", "labels")


def _at(keys: Keys, document: Any) -> Any:
    for key in keys:
        try:
            document = document[key]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def _about_the_file(template: Template, release: str) -> Iterator[Note]:
    known_by = "{{" in template.raw or "{#" in template.raw or bool(template.defaults)
    if "{%" in template.raw and not known_by and release <= "6.3":
        yield (), "has {% %} but no default-values:, by which OSMO up to 6.3 knows a template; add default-values:"
    for name, value in template.defaults.items():
        if JINJA.search(TOKEN.sub("", json.dumps(value, default=str))):
            yield (), f"default-values are not rendered themselves: {name} holds Jinja; write it where it is used"


def _names(flow: Workflow) -> Iterator[Note]:
    seen: dict[str, str] = {}
    tasks = [(keys, str(task.get("name")), "task") for keys, task, _ in flow.tasks]
    for keys, name, kind in [*((keys, name, "group") for keys, name in flow.groups), *tasks]:
        plain = name.lower().replace("_", "-")
        if plain in seen:
            yield (
                (*keys, "name"),
                f"{kind} {name} and {seen[plain]} share a name; names are unique over tasks and groups together, "
                "upper and lower case alike, - and _ alike",
            )
        seen.setdefault(plain, f"{kind} {name}")
    if len(flow.tasks) > MAX_TASKS:
        yield ("workflow",), f"{len(flow.tasks)} tasks: a workflow has at most {MAX_TASKS}; split it"


def _leads(flow: Workflow) -> Iterator[Note]:
    for place, (keys, name) in enumerate(flow.groups):
        tasks = [task for _, task, group in flow.tasks if group == place]
        leads = sum(str(task.get("lead")).lower() == "true" for task in tasks)
        if len(tasks) > 1 and leads != 1:
            yield keys, f"group {name} has {leads} leads: exactly one of its tasks takes lead: true"


def _resources(flow: Workflow) -> Iterator[Note]:
    named = flow.document.get("resources")
    known = set(named) if isinstance(named, dict) else set()
    for keys, task, _ in flow.tasks:
        name = task.get("resource", "default")
        if name not in known:
            defined = ", ".join(sorted(map(str, known))) or "none"
            yield (*keys, "resource"), f"resource {name} is not under workflow: resources: (there: {defined})"


def _order(flow: Workflow) -> Iterator[Note]:
    place_of = {str(task.get("name")): (place, group) for place, (_, task, group) in enumerate(flow.tasks)}
    group_of = {id(task): group for _, task, group in flow.tasks}
    here_of = {id(task): place for place, (_, task, _) in enumerate(flow.tasks)}
    for keys, task, entry in flow.entries("inputs"):
        name = str(entry.get("task", ""))
        if not name or ":" in name:  # WORKFLOW_ID:TASK names an earlier run
            continue
        if name not in place_of:
            yield keys, f"input task {name}: no such task; known: {', '.join(place_of)}"
        elif place_of[name][1] == group_of[id(task)]:
            yield keys, f"input task {name} is in the same group; tasks of a group start together and pass no outputs"
        elif place_of[name][0] > here_of[id(task)]:
            yield keys, f"input task {name} comes later in the file; write it before {task.get('name')}"


def _hidden_order(flow: Workflow) -> Iterator[Note]:
    written: dict[str, str] = {}
    for _, task, entry in flow.entries("outputs"):
        for kind in ("dataset", "update_dataset"):
            if isinstance(entry.get(kind), dict):
                written[str(entry[kind].get("name")).split(":")[0]] = str(task.get("name"))
        if "url" in entry:
            written[str(entry["url"]).rstrip("/")] = str(task.get("name"))
    for keys, task, entry in flow.entries("inputs"):
        dataset = entry.get("dataset")
        what = (
            str(dataset.get("name")).split(":")[0] if isinstance(dataset, dict) else str(entry.get("url")).rstrip("/")
        )
        maker = written.get(what)
        if maker and maker != task.get("name"):
            yield (
                keys,
                f"{what} is written by {maker}, which does not make {task.get('name')} wait; write - task: {maker}",
            )


def _tokens(flow: Workflow) -> Iterator[Note]:
    for keys, task, group in flow.tasks:
        inputs = _list(task, "inputs")
        upstream = {str(entry["task"]) for entry in inputs if "task" in entry}
        siblings = {str(other.get("name")) for _, other, place in flow.tasks if place == group}
        for where, text in _texts(task, keys):
            for match in TOKEN.finditer(text):
                kind, _, rest = match[1].partition(":")
                if kind == "uuid":
                    yield where, "{{uuid}} is let through and never replaced; use {{workflow_id}}"
                elif kind == "input" and rest.isdecimal() and int(rest) >= len(inputs):
                    yield where, f"{match[0]}: the task has {len(inputs)} inputs, counted from 0"
                elif kind == "input" and not rest.isdecimal() and rest not in upstream:
                    yield where, f"{match[0]}: {rest} is no input task of {task.get('name')}; add - task: {rest}"
                elif kind == "host" and rest not in siblings:
                    yield where, f"{match[0]}: a host is known in its own group only ({', '.join(sorted(siblings))})"


def _texts(value: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(item, (*keys, key))


def _files(flow: Workflow) -> Iterator[Note]:
    seen: set[tuple[int, str]] = set()
    for keys, task, entry in flow.entries("files"):
        path = str(entry.get("path"))
        if (id(task), path) in seen:
            yield keys, f"file {path} is given twice; each path once"
        seen.add((id(task), path))
        if isinstance(entry.get("localpath"), str):
            yield from ((keys, message) for message in _local_file(flow.folder / entry["localpath"]))
        elif len(str(entry.get("contents", ""))) > FILE_BYTES:
            yield keys, f"file {path} is larger than 1 MiB, which a Kubernetes Secret cannot hold; bring it as an input"


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
        yield f"localpath {path} is larger than 1 MiB, which a Kubernetes Secret cannot hold; bring it as an input"
    for number, line in enumerate(text.splitlines(), 1):
        found = JINJA.search(TOKEN.sub("", line))
        if found:
            yield (
                f"localpath {path} holds {found[0]} in line {number}, which the server renders as Jinja; "
                "bake such a file into the image"
            )


def _datasets(flow: Workflow) -> Iterator[Note]:
    for kind in ("inputs", "outputs"):
        for keys, _, entry in flow.entries(kind):
            value = next((entry[word] for word in ("dataset", "update_dataset") if word in entry), None)
            if value is None:
                continue
            local = value.get("localpath") if isinstance(value, dict) else None
            if flow.release >= "6.4":
                yield keys, f"datasets are gone in 6.4: {_without_datasets(kind, local)}"
            elif not isinstance(value, dict) or not re.fullmatch(
                r"([\w{}-]+/)?[\w{}-]+(:[\w{}-]*)?", str(value.get("name")), re.ASCII
            ):
                yield (
                    keys,
                    "dataset: expected {name: NAME} with letters, digits, - and _, such as dataset: {name: ur10e-lerobot}",
                )
            elif local and ":" in str(value["name"]):
                yield keys, f"dataset {value['name']} has a localpath, so its name takes no :tag"
            elif local and not (flow.folder / local).exists():
                yield (
                    keys,
                    f"localpath {flow.folder / local} does not exist; it is relative to the folder of the workflow file",
                )


def _without_datasets(kind: str, local: object) -> str:
    if local:
        return f"osmo data upload azure://ACCOUNT/CONTAINER/bags {local}, then - url: azure://ACCOUNT/CONTAINER/bags"
    if kind == "inputs":
        return "osmo data upload azure://ACCOUNT/CONTAINER/PATH FOLDER, then - url: azure://ACCOUNT/CONTAINER/PATH"
    return "keep results with - url: azure://ACCOUNT/CONTAINER/PATH (here: --set results=url)"


def _by_release(flow: Workflow) -> Iterator[Note]:
    if "labels" in flow.document and flow.release <= "6.3":
        yield ("workflow", "labels"), f"labels: came with 6.4 and {flow.release} refuses them; leave them out"
    if flow.release <= "6.2":
        timeout = flow.document.get("timeout")
        for key, value in (timeout if isinstance(timeout, dict) else {}).items():
            if str(value).startswith("P"):
                yield ("workflow", "timeout", key), f"{key}: {value}: ISO 8601 came with 6.3; {DURATION}"
    if flow.release <= "6.1":
        resources = flow.document.get("resources")
        for name, resource in (resources if isinstance(resources, dict) else {}).items():
            if isinstance(resource, dict) and "topology" in resource:
                yield ("workflow", "resources", name, "topology"), "topology came with 6.2; leave it out"


def _images(flow: Workflow) -> Iterator[Note]:
    for keys, task, _ in flow.tasks:
        image = task.get("image")
        if isinstance(image, str) and "/" not in image and image.partition(":")[0] not in LIBRARY_IMAGES:
            yield (
                (*keys, "image"),
                f"image {image} is looked for on Docker Hub, never on this machine; write its registry too: "
                f"192.168.1.100:5000/{image}",
            )


RULES: tuple[Callable[[Workflow], Iterator[Note]], ...] = (
    _names, _leads, _resources, _order, _hidden_order, _tokens, _files, _datasets, _by_release, _images,
)  # fmt: skip
