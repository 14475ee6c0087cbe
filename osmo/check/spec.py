"""Checks a workflow file against a release of OSMO: what it refuses, and hints at what it does differently than it reads.

The rules are those of OSMO 6.0 to 6.4: two JSON Schemas for the form, and code (rules.py) for what spans the file.
"""

import difflib
import functools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator, FormatChecker, validators

from common.cli.command import UserError
from osmo.check.hints import DATASETS, explain
from osmo.check.rules import HINTS, RULES, Note, Workflow
from osmo.check.template import Keys, Rendered, Template, TemplateError, read

RELEASES = ("6.0", "6.1", "6.2", "6.3", "6.4")
HERE = Path(__file__).parent
log = logging.getLogger(__name__)


class Finding(NamedTuple):
    """One thing that is wrong, and its line in the file. A release takes a file with hints only."""

    line: int
    message: str
    is_hint: bool = False

    def at(self, path: Path) -> str:
        """Return the finding as a line that begins with the file and the line."""
        return f"{path}:{self.line}: {'hint: ' if self.is_hint else ''}{self.message}"


def check_releases(path: Path, releases: Sequence[str], values: Mapping[str, Any]) -> dict[str, list[Finding]]:
    """Return what is wrong with the file, rendered with `values`, for each release."""
    try:
        template = read(path)
        rendered = template.render(values)
    except TemplateError as error:
        return {release: [Finding(error.line or 1, str(error))] for release in releases}
    unused = list(_unused_values(template, values))
    return {release: _findings(path, template, rendered, release, values, unused) for release in releases}


def refusals(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings for which a release refuses the file."""
    return [finding for finding in findings if not finding.is_hint]


def require_accepted(path: Path, releases: Sequence[str], values: Mapping[str, Any]) -> None:
    """Log the hints for the newest release that takes the file; raises UserError when none of `releases` does."""
    found = check_releases(path, releases, values)
    accepting = [release for release in releases if not refusals(found[release])]
    if not accepting:
        refused = refusals(found["6.3" if "6.3" in found else releases[-1]])  # 6.3 has datasets and all checks
        count = f"({len(refused)} in all: python -m osmo.local check {path})"
        raise UserError(f"{refused[0].at(path)} {count}")
    for hint in found[accepting[-1]]:
        log.warning("%s", hint.at(path))


def _unused_values(template: Template, values: Mapping[str, Any]) -> Iterator[Note]:
    for name in template.unused(values):
        close = [] if name in template.defaults else difflib.get_close_matches(name, template.defaults, n=1)
        hint = f"; did you mean {close[0]}?" if close else " with these values"
        yield (), f"--set {name}: nothing in the workflow uses it{hint}"


def _findings(
    path: Path, template: Template, rendered: Rendered, release: str, values: Mapping[str, Any], unused: list[Note]
) -> list[Finding]:
    refused = [*_sections(template, release), *_form(rendered.document, release)]
    hints = [*unused, *((keys, f"{keys[-1]} is given twice; YAML keeps the last") for keys in rendered.duplicates)]
    if isinstance(rendered.document, dict) and isinstance(rendered.document.get("workflow"), dict):
        workflow = Workflow(rendered.document["workflow"], path.parent, release, values)
        refused += [note for rule in RULES for note in rule(workflow)]
        hints += [note for rule in HINTS for note in rule(workflow)]
    is_known = "{{" in template.raw or "{#" in template.raw or bool(template.defaults)
    if "{%" in template.raw and not is_known and release <= "6.3":
        refused.append(
            ((), "has {% %} but no default-values:, by which OSMO up to 6.3 knows a template; add default-values:")
        )
    notes = {Finding(rendered.line(keys), message) for keys, message in refused}
    return sorted(notes | {Finding(rendered.line(keys), message, is_hint=True) for keys, message in hints})


@functools.cache
def _validator(has_datasets: bool) -> Any:
    name = "workflow.le-6.3.schema.json" if has_datasets else "workflow.schema.json"
    # JSON Schema takes 1.0 for an integer; OSMO does not where it wants the text of one.
    whole = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    kind: Any = validators.extend(Draft202012Validator, type_checker=whole)  # type: ignore[no-untyped-call]
    return kind(json.loads((HERE / name).read_text()), format_checker=FormatChecker(["regex"]))


def _sections(template: Template, release: str) -> Iterator[Note]:
    for name in template.other_sections:
        if release >= "6.2" or "-" in name:  # 6.0 and 6.1 ignore other words
            yield (name,), f"unknown top-level key {name}: the file's sections are workflow: and default-values:"


def _form(document: Any, release: str) -> Iterator[Note]:
    if not isinstance(document, dict):
        yield (), "expected a mapping with workflow: and default-values:"
        return
    known = {key: value for key, value in document.items() if key == "workflow"}
    for error in _validator(release <= "6.3").iter_errors(known):
        for keys, message in explain(error):
            value = _value_at(keys, document)
            named = {*keys, *(value if isinstance(value, dict) else ())}
            has_better_rule = release >= "6.4" and named & DATASETS
            if not has_better_rule and not (release <= "6.2" and _was_taken_before_6_3(keys, value)):
                yield keys, message


def _was_taken_before_6_3(keys: Keys, value: Any) -> bool:
    is_word = len(keys) > 1 and keys[-2] in ("args", "command") and isinstance(value, bool)
    is_whole = keys[-1:] in (("cpu",), ("gpu",)) and isinstance(value, float)
    return is_word or is_whole or keys[-2:] == ("dataset", "path")


def _value_at(keys: Keys, document: Any) -> Any:
    for key in keys:
        try:
            document = document[key]
        except (KeyError, IndexError, TypeError):
            return None
    return document
