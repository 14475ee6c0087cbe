"""Explains an error of the JSON Schema: what is wrong, and what to write instead."""

import difflib
from collections.abc import Iterator
from typing import Any

from jsonschema.exceptions import ValidationError, best_match

from osmo.check.template import Keys

NAME = (
    "expected letters, digits, - and _, a letter first and no dot, such as train-lr1e5-kl10; "
    "at most 58 characters (64 inside a group)"
)
DURATION = "expected seconds or one whole number with one unit, such as 24h, 90m or 3600"
QUANTITY = "expected a number and T, Ti, G, Gi, M, Mi, K, Ki or B without a space, such as 64Gi"
URL = (
    "expected azure://ACCOUNT/CONTAINER[/PATH], s3://BUCKET[/PATH], gs://BUCKET[/PATH], tos:// or swift:// "
    "without , ; or *; https:// is not accepted"
)
INPUT = "expected - task: NAME or - url: azure://ACCOUNT/CONTAINER/PATH"
DATASET = (
    "expected dataset: {name: NAME} with letters, digits, - and _, such as dataset: {name: ur10e-lerobot}; an input may have "
    "a localpath, with which the name takes no :tag; path, metadata and labels hold no comma"
)
OUTPUT = "expected - url: azure://ACCOUNT/CONTAINER/PATH"
WORDS = 'expected a list of texts and numbers; write true and false as "true" and "false"'

# What a value must look like, by its key.
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
    "regex": "expected a regular expression",
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
    "topology": "expected - key: with requirementType: required or preferred",
    "downloadType": "only download exists",
    "resources": "expected names with cpu, gpu, memory, storage and platform",
    "timeout": "expected exec_timeout and queue_timeout",
    "workflow": "the file's sections are workflow: and default-values:",
    "image": "expected [REGISTRY[:PORT]/]NAME[:TAG] in lower case, such as registry.example.com:5000/ur10e-act-train:latest",
}
FORMS |= {"contents": FORMS["files"], "key": FORMS["topology"], "cacheSize": QUANTITY}
DATASETS = {"dataset", "update_dataset"}
# Keys that people write and OSMO does not know: part of the file -> key, or several keys in one -> what to write instead.
_GPU = "write workflow: resources: NAME: {gpu: 1} and resource: NAME"
_COUNT = "there is no count; write the tasks with {% for i in range(nodes) %} and lead: true for one of them"
_IO = {
    "localpath": "bring a folder with osmo data upload azure://ACCOUNT/CONTAINER/PATH FOLDER and - url:, "
    "or, up to 6.3, with - dataset: {name: NAME, localpath: FOLDER}; it appears at {{input:N}}",
    "path": "there is no path here; write below {{output}}, read below {{input:N}}",
    "name": INPUT,
}
UNKNOWN_KEYS: dict[str, dict[str, str]] = {
    "tasks": {
        "count": "a task is one process; write N of them with {% for i in range(nodes) %} in a group",
        "dependsOn depends_on needs": "tasks are ordered by inputs: - task: NAME",
        "retries retry": "retries are exitActions: {RESCHEDULE: 75}, up to the server's max_retry_per_task",
        "timeout": "timeouts belong to the workflow: workflow: timeout: exec_timeout: 24h",
        "secrets": "secrets are credentials: {wandb-api-key: {WANDB_API_KEY: wandb_api_key}}",
        "env envs": "write environment:",
        "gpu gpus": _GPU,
        "volumes mounts": "there are no bind mounts; bring data by inputs: - url: azure://ACCOUNT/CONTAINER/PATH",
        "localpath": "only an entry of files: takes a localpath; bring folders by inputs: - url: or "
        "- dataset: (up to 6.3)",
        "script entrypoint": "write command: [bash, -c] and the script under args:",
    },
    "inputs": {**_IO, "update_dataset": "update_dataset belongs to outputs; an input is - dataset: {name: NAME}"},
    "outputs": _IO,
    "groups": {"count replicas": _COUNT},
    "workflow": {
        "labels": "labels came with 6.4; leave them out",
        "env secrets inputs outputs": "each task has its own environment:, credentials:, inputs: and outputs:",
    },
}
_INSTEAD = {
    (part, key): hint for part, hints in UNKNOWN_KEYS.items() for keys, hint in hints.items() for key in keys.split()
}


def explain(error: ValidationError) -> Iterator[tuple[Keys, str]]:
    """Yield (keys of the part, what is wrong and what to write instead) for an error."""
    error = _most_likely(error)
    where: Keys = tuple(error.absolute_path)
    part = next((str(key) for key in reversed(where) if isinstance(key, str)), "")
    word = next((str(key) for key in reversed(where) if key in FORMS), part)
    form = FORMS.get(word, "its form is described in docs/cluster.md")
    if word != "regex" and DATASETS & {*where, *(error.instance if isinstance(error.instance, dict) else ())}:
        form = DATASET
    schema: Any = error.schema
    value: Any = error.instance
    if error.validator == "additionalProperties" and isinstance(value, dict):
        known = schema.get("properties", {})
        for key in value.keys() - known.keys():
            yield (*where, key), f"unknown key {key}: {_instead_of(part, str(key), known)}"
    elif error.validator == "required":
        needed: Any = error.validator_value
        missing = [key for key in needed if key not in value]
        yield (
            where,
            f"{', '.join(missing)} is missing: {form if form == DATASET else FORMS.get(missing[0], form)}",
        )
    elif "propertyNames" in error.schema_path:
        yield where, f"{value}: {form}"
    else:
        keys = value if isinstance(value, dict) else ()
        hint = next((_INSTEAD[part, key] for key in keys if (part, key) in _INSTEAD), form)
        yield where, f"{word}: {_show(value)}: {hint}"


def _most_likely(error: ValidationError) -> ValidationError:
    """Of a schema's alternatives, return the error of the one that was meant: whose required keys are there, if any is."""
    context = error.context or []
    lacking = {part.schema_path[0] for part in context if part.validator == "required" and not part.relative_path}
    fitting = [part for part in context if part.schema_path[0] not in lacking] if lacking else []
    return best_match(fitting or [error]) or error


def _instead_of(part: str, key: str, known: dict[str, Any]) -> str:
    if (part, key) in _INSTEAD:
        return _INSTEAD[part, key]
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"


def _show(value: Any) -> str:
    if value is None:
        return "empty (put the whole key inside the {% if %})"
    if isinstance(value, dict):
        return "a mapping with " + ", ".join(map(str, value)) if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return repr(value) if isinstance(value, str) else str(value).lower()
