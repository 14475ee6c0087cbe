"""Checks a workflow file against a release of OSMO: everything that it would refuse, or do differently than it reads.

The rules are those of OSMO 6.0 to 6.4: two JSON Schemas for the form, and code (rules.py) for what spans the file.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator, FormatChecker

from osmo.check.hints import explain
from osmo.check.rules import RULES, Note, Workflow
from osmo.check.template import JINJA, TOKEN, Keys, Rendered, Template, TemplateError, read

RELEASES = ("6.0", "6.1", "6.2", "6.3", "6.4")
HERE = Path(__file__).parent


class Finding(NamedTuple):
    """One thing that is wrong, and its line in the file."""

    line: int
    message: str


def check(path: Path, release: str, values: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with the file, rendered with `values`, for one release; empty when it would be accepted."""
    return check_releases(path, (release,), values)[release]


def check_releases(path: Path, releases: Sequence[str], values: Mapping[str, Any]) -> dict[str, list[Finding]]:
    """Return the findings of `check` for several releases, rendering the file once."""
    try:
        template = read(path)
        rendered = template.render(values)
    except TemplateError as error:
        return {release: [Finding(error.line or 1, str(error))] for release in releases}
    return {release: _findings(path, template, rendered, release) for release in releases}


def _findings(path: Path, template: Template, rendered: Rendered, release: str) -> list[Finding]:
    notes: list[Note] = [(keys, f"{keys[-1]} is given twice; YAML keeps the last") for keys in rendered.duplicates]
    notes += _form(rendered.document, release)
    if isinstance(rendered.document, dict) and isinstance(rendered.document.get("workflow"), dict):
        notes += _template_notes(template, release)
        workflow = Workflow(rendered.document["workflow"], path.parent, release)
        notes += [note for rule in RULES for note in rule(workflow)]
    return sorted({Finding(rendered.line(keys), message) for keys, message in notes})


@functools.cache
def _validator(has_datasets: bool) -> Draft202012Validator:
    name = "workflow.le-6.3.schema.json" if has_datasets else "workflow.schema.json"
    return Draft202012Validator(json.loads((HERE / name).read_text()), format_checker=FormatChecker(["regex"]))


def _form(document: Any, release: str) -> Iterator[Note]:
    if not isinstance(document, dict):
        yield (), "expected a mapping with workflow: and default-values:"
        return
    known = {key: value for key, value in document.items() if key in ("workflow", "version", "default-values")}
    if release >= "6.2":  # 6.0 and 6.1 ignore other sections
        for key in document.keys() - known.keys():
            yield (key,), f"unknown top-level key {key}: the file's sections are workflow: and default-values:"
    for error in _validator(release <= "6.3").iter_errors(known):
        for keys, message in explain(error):
            value = _value_at(keys, document)
            is_coerced = release <= "6.2" and _was_coerced_before_6_3(keys, value)
            if not is_coerced and not _has_a_better_rule(keys, value):
                yield keys, message


def _was_coerced_before_6_3(keys: Keys, value: Any) -> bool:
    is_word = len(keys) > 1 and keys[-2] in ("args", "command") and isinstance(value, bool)
    return is_word or (keys[-1:] in (("cpu",), ("gpu",)) and isinstance(value, float))


def _has_a_better_rule(keys: Keys, value: Any) -> bool:
    """Whether rules.py explains it better: datasets and labels in a release that has none."""
    named = [*keys, *(value if isinstance(value, dict) else ())]
    return "dataset" in named or "update_dataset" in named or keys == ("workflow", "labels")


def _value_at(keys: Keys, document: Any) -> Any:
    for key in keys:
        try:
            document = document[key]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def _template_notes(template: Template, release: str) -> Iterator[Note]:
    is_known = "{{" in template.raw or "{#" in template.raw or bool(template.defaults)
    if "{%" in template.raw and not is_known and release <= "6.3":
        yield (), "has {% %} but no default-values:, by which OSMO up to 6.3 knows a template; add default-values:"
    for name, value in template.defaults.items():
        if JINJA.search(TOKEN.sub("", json.dumps(value, default=str))):
            yield (), f"default-values are not rendered themselves: {name} holds Jinja; write it where it is used"
