"""An error of the JSON Schema in; what is wrong and the right form, in words, out."""

import difflib
from collections.abc import Iterator
from typing import Any

from jsonschema.exceptions import ValidationError

from osmo.check.template import Keys

NAME = (
    "expected letters, digits, - and _, a letter first and no dot, such as train-lr1e5-kl10; "
    "at most 58 characters (64 inside a group)"
)
DURATION = "expected seconds or one whole number with one unit, such as 24h, 90m or 3600"
QUANTITY = "expected a number and T, Ti, G, Gi, M, Mi, K, Ki or B without a space, such as 64Gi"
URL = (
    "expected azure://ACCOUNT/CONTAINER[/PATH], s3://BUCKET[/PATH], gs://BUCKET[/PATH], tos:// or swift:// "
    "without , ; or *; https:// is not taken"
)
INPUT = "expected - task: NAME or - url: azure://ACCOUNT/CONTAINER/PATH"
OUTPUT = "expected - url: azure://ACCOUNT/CONTAINER/PATH"
WORDS = 'expected a list of texts and numbers; write true and false as "true" and "false"'

# What a value must look like, by the key it stands under.
FORMS = {
    "name": NAME,
    "exec_timeout": DURATION,
    "queue_timeout": DURATION,
    "frequency": DURATION,
    "memory": QUANTITY,
    "storage": QUANTITY,
    "cpu": "expected a whole number, such as 8",
    "gpu": "expected a whole number, such as 1",
    "url": URL,
    "task": "expected the name of a task, or WORKFLOW_ID:TASK of an earlier run",
    "regex": "expected a regular expression; an output's takes no comma",
    "command": f"{WORDS}, such as command: [bash, -c]",
    "args": WORDS,
    "groups": "groups is a list: - name: workers, with tasks: below it; N equal tasks come from {% for i in range(nodes) %}",
    "tasks": "expected 1 to 20 tasks; a group of two or more has exactly one with lead: true",
    "inputs": f"expected a list; {INPUT}",
    "outputs": f"expected a list; {OUTPUT}",
    "environment": "expected a mapping of names to texts",
    "credentials": "expected CREDENTIAL: {ENV_VARIABLE: payload_key}, or CREDENTIAL: /mount/folder",
    "exitActions": "expected COMPLETE, FAIL or RESCHEDULE with exit codes, such as RESCHEDULE: 75,3001-3006",
    "files": "expected - path: and either contents: or localpath:",
    "path": "expected an absolute file path that is not below /osmo",
    "volumeMounts": "expected a list of SOURCE or SOURCE:TARGET",
    "checkpoint": "expected - path:, url: and frequency:",
    "labels": "expected at most 16 Kubernetes labels",
    "version": "only version 2 exists; leave it out",
    "topology": "expected - key: with requirementType: required or preferred",
    "downloadType": "only download exists",
    "resources": "expected names with cpu, gpu, memory, storage and platform",
    "timeout": "expected exec_timeout and queue_timeout",
    "default-values": "expected a mapping of names to values",
}

# What people write instead of what OSMO knows: (part of the file, key) -> the right form.
_TASK = {
    "count": "a task stands for one process; write N of them with {% for i in range(nodes) %} in a group",
    "dependsOn": "tasks are ordered by inputs: - task: NAME",
    "depends_on": "tasks are ordered by inputs: - task: NAME",
    "needs": "tasks are ordered by inputs: - task: NAME",
    "retries": "retries are exitActions: {RESCHEDULE: 75}, up to the server's max_retry_per_task",
    "retry": "retries are exitActions: {RESCHEDULE: 75}, up to the server's max_retry_per_task",
    "timeout": "timeouts are the workflow's: workflow: timeout: exec_timeout: 24h",
    "secrets": "secrets are credentials: {wandb-api-key: {WANDB_API_KEY: wandb_api_key}}",
    "env": "write environment:",
    "envs": "write environment:",
    "resources": "OSMO drops a task's own resources in silence; name them under workflow: resources: and write resource: NAME",
    "backend": "OSMO drops a task's backend in silence; choose the pool with --pool",
    "gpu": "write workflow: resources: NAME: {gpu: 1} and resource: NAME",
    "gpus": "write workflow: resources: NAME: {gpu: 1} and resource: NAME",
    "volumes": "there are no bind mounts; bring data by inputs: - url: azure://ACCOUNT/CONTAINER/PATH",
    "mounts": "there are no bind mounts; bring data by inputs: - url: azure://ACCOUNT/CONTAINER/PATH",
    "localpath": "only an entry of files: takes a localpath; bring folders by inputs: - url: or - dataset: (up to 6.3)",
    "script": "write command: [bash, -c] and the script under args:",
    "entrypoint": "write command:",
    "working_dir": "write cd FOLDER in the command",
    "workdir": "write cd FOLDER in the command",
}
_IO = {
    "localpath": "bring a folder with osmo data upload azure://ACCOUNT/CONTAINER/PATH FOLDER and - url:, "
    "or, up to 6.3, with - dataset: {name: NAME, localpath: FOLDER}; it lands at {{input:N}}",
    "path": "there is no path here; write below {{output}}, read below {{input:N}}",
    "name": INPUT,
}
WRONG_KEYS: dict[str, dict[str, str]] = {
    "tasks": _TASK,
    "inputs": _IO,
    "outputs": _IO,
    "groups": {
        "count": "there is no count; write the tasks with {% for i in range(nodes) %} and lead: true for one of them",
        "replicas": "there is no count; write the tasks with {% for i in range(nodes) %} and lead: true for one of them",
    },
    "files": {"content": "write contents:", "local_path": "write localpath:"},
    "workflow": {
        "env": "environment: belongs to each task",
        "secrets": "credentials: belong to each task",
        "inputs": "inputs: belong to each task",
        "outputs": "outputs: belong to each task",
    },
    "exitActions": {
        "RESTART": "OSMO knows COMPLETE, FAIL and RESCHEDULE; its documentation's RESTART is refused: write RESCHEDULE",
    },
}


def explain(error: ValidationError, prefix: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """Yield (where, what is wrong and the right form) for an error and what lies beneath it."""
    where: Keys = (*prefix, *error.relative_path)
    branches = [part for part in _branches(error) if part is not error]
    if branches:
        for part in branches:
            yield from explain(part, where)
    elif error.validator == "additionalProperties" and isinstance(error.instance, dict):
        schema: Any = error.schema
        known = schema.get("properties", {})
        for key in error.instance:
            if key not in known:
                yield (*where, key), f"unknown key {key}: {_right_key(where, str(key), known)}"
    elif error.validator == "required":
        needed: Any = error.validator_value
        instance: Any = error.instance
        missing = [key for key in needed if key not in instance]
        yield where, f"{', '.join(missing)} is missing: {_form(missing[0])}"
    elif error.validator == "propertyNames" or "propertyNames" in error.schema_path:
        key = str(error.instance)
        known = WRONG_KEYS.get(_part(where), {})
        yield where, f"{key}: {known.get(key) or _form(_word(where))}"
    else:
        known = WRONG_KEYS.get(_part(where), {})
        right = (
            next((known[key] for key in error.instance if key in known), "") if isinstance(error.instance, dict) else ""
        )
        yield where, f"{_word(where)}: {_show(error.instance)}: {right or _form(_word(where))}"


def _branches(error: ValidationError) -> list[ValidationError]:
    """The errors of the alternative that was meant: of mappings, the one whose distinguishing key is there."""
    if error.validator not in ("anyOf", "oneOf") or not isinstance(error.instance, dict):
        return []
    alternatives: dict[Any, list[ValidationError]] = {}
    for part in error.context or ():
        alternatives.setdefault(part.schema_path[0], []).append(part)
    for parts in alternatives.values():
        if not any(part.validator == "required" and not part.relative_path for part in parts):
            return parts
    return []


def _right_key(where: Keys, key: str, known: dict[str, Any]) -> str:
    wrong = WRONG_KEYS.get(_part(where), {})
    if key in wrong:
        return wrong[key]
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"


def _part(where: Keys) -> str:
    """The kind of mapping a key stands in: the list it is an item of, or its own name."""
    names = [str(key) for key in where if isinstance(key, str)]
    return names[-1] if names else ""


def _word(where: Keys) -> str:
    return next((str(key) for key in reversed(where) if isinstance(key, str) and key in FORMS), _part(where))


def _form(word: str) -> str:
    needed = {
        "workflow": "the file's sections are workflow: and default-values:",
        "image": "expected a full registry path, such as 192.168.1.100:5000/ur10e-act-train:latest",
        "contents": FORMS["files"],
        "key": FORMS["topology"],
        "task": INPUT,
    }
    return needed.get(word) or FORMS.get(word) or "see the key's form in osmo/README.md"


def _show(value: Any) -> str:
    if value is None:
        return "empty (put the whole key inside the {% if %})"
    if isinstance(value, dict):
        return "a mapping with " + ", ".join(map(str, value)) if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return repr(value) if isinstance(value, str) else str(value).lower()
