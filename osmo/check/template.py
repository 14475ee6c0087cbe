"""Renders a workflow file as OSMO does, and knows which line of the file each part of the document comes from.

OSMO renders twice. The server renders the section workflow: with the default-values and the values of --set; the command
line then inlines the text of every `localpath` and posts the result, which the server renders again, now with the values
of --set only.

Jinja keeps no record of lines. To find them, the file is rendered once more with ` #line N` at the end of its line N:
loops repeat these numbers and conditions drop them together with their lines, so line i of this numbered text tells
where line i of the rendered text comes from. The YAML nodes in turn know their line of the rendered text.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from jinja2.sandbox import SandboxedEnvironment

from common.cli.command import UserError, one_line

Keys = tuple[str | int, ...]
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# OSMO replaces its tokens after both passes; Jinja must not see them, and they are written without spaces.
TOKEN = re.compile(r"\{\{(output|workflow_id|uuid|input:[\w:.-]+|host:[\w.-]+)\}\}", re.ASCII)
_HIDDEN_TOKEN = re.compile(r"<osmo:([\w:.-]+)>", re.ASCII)
_LOOSE_TOKEN = re.compile(r"\{\{\s*(?:output|workflow_id|uuid|(?:input|host)\s*:\s*[\w:-]+)\s*\}\}", re.ASCII)
JINJA = re.compile(r"\{\{|\{%|\{#")
SECTIONS = ("workflow", "default-values", "version")
_SECTION = re.compile(r"^([a-zA-Z][a-zA-Z0-9_-]*):", re.MULTILINE)
_LINE_NUMBER = re.compile(r" #line (\d+)")


class TemplateError(Exception):
    """The file cannot be rendered or read; `line` is where, 0 when unknown."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class Rendered(NamedTuple):
    """The document after the first pass, and the line of the file that each of its parts comes from."""

    document: Any
    lines: dict[Keys, int]
    duplicates: list[Keys]  # keys that a mapping holds twice; YAML keeps the last without a word

    def line(self, keys: Keys) -> int:
        """Return the line of a part, or of the nearest part around it."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)


class Template(NamedTuple):
    """A workflow file: its text, that of the section workflow: below as many empty lines as stand above it, and the rest."""

    raw: str
    text: str
    defaults: dict[str, Any]
    other_sections: dict[str, int]  # words at the beginning of a line that OSMO does not know, and their lines

    def render(self, values: Mapping[str, Any]) -> Rendered:
        """Do the first pass; raises TemplateError with the line of the file."""
        values = {**self.defaults, **values}
        text = render_text(self.text, values)
        origins = _origins(self.text, values, text)
        try:
            parts, document = _load(text)
        except yaml.YAMLError as error:
            mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
            line = origins.get(mark.line if mark else 0, 1)
            raise TemplateError(line, f"not valid YAML once rendered: {one_line(error)}") from error
        lines: dict[Keys, int] = {(): 1, **{(name,): line for name, line in self.other_sections.items()}}
        duplicates: list[Keys] = []
        for keys, line, is_duplicate in parts:
            lines[keys] = origins.get(line, 1)
            duplicates += [keys] if is_duplicate else []
        return Rendered(document, lines, duplicates)

    def unused(self, values: Mapping[str, Any]) -> list[str]:
        """Return the names of `values`, with which the file can be rendered, that change nothing when they are missing."""
        everything = {**self.defaults, **values}
        text = render_text(self.text, everything)
        found = []
        for name in values:
            try:
                same = render_text(self.text, {key: value for key, value in everything.items() if key != name}) == text
            except TemplateError:
                continue
            found += [name] if same else []
        return found


def read(path: Path) -> Template:
    """Read a workflow file; raises TemplateError when it is no text or its sections are not those of a workflow.

    Raises UserError when it cannot be read.
    """
    try:
        raw = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the workflow file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TemplateError(0, f"cannot be read: {one_line(error)}") from error
    words = [(match[1], match.start()) for match in _SECTION.finditer(raw)]
    starts = [(name, start) for name, start in words if name in SECTIONS]
    sections: dict[str, tuple[int, str]] = {}
    for (name, start), (_, end) in itertools.pairwise([*starts, ("", len(raw))]):
        if name in sections:
            raise TemplateError(_line(raw, start), f"{name}: is given twice; a file has one section of each name")
        sections[name] = start, raw[start:end]
    if "workflow" not in sections:
        raise TemplateError(1, "workflow: is missing: the file's sections are workflow: and default-values:")
    start, text = sections["workflow"]
    others = {name: _line(raw, position) for name, position in words if name not in SECTIONS}
    defaults = _default_values(raw, *sections["default-values"]) if "default-values" in sections else {}
    return Template(raw, "\n" * raw.count("\n", 0, start) + text, defaults, others)


def _default_values(raw: str, start: int, text: str) -> dict[str, Any]:
    try:
        _, content = _load(text)
    except yaml.YAMLError as error:
        raise TemplateError(_line(raw, start), f"default-values: {one_line(error)}") from error
    defaults = content.get("default-values") if isinstance(content, dict) else content
    if defaults and not isinstance(defaults, dict):
        raise TemplateError(_line(raw, start), "default-values: expected a mapping of names to values")
    return defaults or {}


def submitted(document: Any, folder: Path, values: Mapping[str, Any]) -> Any:
    """Do what follows the first pass: inline every `localpath` of `files`, and render once more with `values` only.

    Raises TemplateError when the second pass fails on an inlined text.
    """
    for task in all_tasks(document):
        for file in task.get("files", ()):
            if "localpath" in file:
                file["contents"] = (folder / file.pop("localpath")).read_text(encoding="utf-8")
    rendered = render_text(yaml.safe_dump({"workflow": document["workflow"]}, sort_keys=False), values)
    try:
        return _load(rendered)[1]
    except yaml.YAMLError as error:
        raise TemplateError(0, f"not valid YAML once rendered twice: {one_line(error)}") from error


def all_tasks(document: Any) -> list[dict[str, Any]]:
    """Return the tasks of a rendered workflow, those of groups included, in the order of the file."""
    workflow = document["workflow"]
    groups = workflow.get("groups") or [{"tasks": workflow.get("tasks", [])}]
    return [task for group in groups for task in group["tasks"]]


def parse_set(texts: Sequence[str], as_text: Sequence[str]) -> dict[str, Any]:
    """Return the values of --set (OSMO tries a whole number, then a number, then text) and of --set-string."""
    numbers = {name: _number(value) for name, value in map(_split, texts)}
    return numbers | dict(map(_split, as_text))


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise TemplateError(0, f"{text!r}: expected name=value, such as --set steps=100 wandb=true")
    return name, value


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def is_true(value: object) -> bool:
    """Whether OSMO takes a value for true: it may be written as true, 1, yes, on, y or t."""
    return str(value).lower() in ("true", "1", "yes", "on", "y", "t")


def _load(text: str) -> tuple[list[tuple[Keys, int, bool]], Any]:
    """Return the parts of a YAML document as `_walk` yields them, and its content; raises YAMLError."""
    try:
        return _construct(LOADER(text))
    except yaml.YAMLError:  # libyaml refuses a tab that begins a block of text; PyYAML, which OSMO uses, does not
        return _construct(yaml.SafeLoader(text))


def _construct(loader: Any) -> tuple[list[tuple[Keys, int, bool]], Any]:
    try:
        node = loader.get_single_node()
        parts = list(_walk(node, (), set()))  # before the content is built, which merges the keys of <<: into mappings
        return parts, loader.construct_document(node) if node else None
    except (ValueError, TypeError, AttributeError, OverflowError, LookupError) as error:
        # PyYAML lets these through for a number or a date that is none, such as 2024-13-45.
        raise yaml.YAMLError(f"a value does not have the form of its type: {one_line(error)}") from error


def render_text(text: str, values: Mapping[str, Any]) -> str:
    """Render a text as Jinja and keep OSMO's tokens; raises TemplateError with the line of the text."""
    try:
        rendered = _compiled(TOKEN.sub(r"<osmo:\1>", text)).render(values)
    except jinja2.TemplateSyntaxError as error:
        message = f"not a valid template: {error.message}"
        raise TemplateError(error.lineno, _advice(text, error.lineno, message)) from error
    except Exception as error:  # a template can raise whatever its expressions raise
        line = _template_line(error)
        source = text.splitlines()[line - 1].strip() if line else ""
        message = f"cannot be rendered: {one_line(error)} in: {source}"
        raise TemplateError(line, _advice(text, line, message)) from error
    return _HIDDEN_TOKEN.sub(r"{{\1}}", rendered)


@functools.lru_cache(maxsize=8)
def _compiled(text: str) -> jinja2.Template:
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(text)


def _advice(text: str, line: int, message: str) -> str:
    """Return the message, or where the line holds a token with spaces, what to write instead of it."""
    for loose in _LOOSE_TOKEN.finditer("".join(text.splitlines()[line - 1 : line])):
        if (token := re.sub(r"\s", "", loose[0])) != loose[0]:
            return f"{loose[0]}: a token takes no spaces; write {token}"
    return message


def _template_line(error: BaseException) -> int:
    line, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _origins(text: str, values: Mapping[str, Any], rendered: str) -> dict[int, int]:
    """Return line of `rendered` (from 0) -> line of `text` (from 1) by rendering `text` with numbered lines."""
    numbered = "".join(f"{line} #line {number}\n" for number, line in enumerate(text.splitlines(), 1))
    try:
        lines = render_text(numbered, values).splitlines()
    except TemplateError:  # within an expression that spans several lines, a number is a syntax error
        return {}
    if len(lines) != len(rendered.splitlines()):
        return {}
    found = {index: _LINE_NUMBER.findall(line) for index, line in enumerate(lines)}
    return {index: int(numbers[-1]) for index, numbers in found.items() if numbers}


def _walk(node: yaml.Node | None, keys: Keys, seen: set[int]) -> Iterator[tuple[Keys, int, bool]]:
    """Yield every part of a document: its keys, its line from 0, and whether its mapping held the key before.

    An alias repeats a node that has been seen, perhaps the one it is part of; its parts are not visited again.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        names: set[Any] = set()
        for key, value in node.value:
            yield (*keys, key.value), key.start_mark.line, key.value in names
            names.add(key.value)
            yield from _walk(value, (*keys, key.value), seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*keys, index), item.start_mark.line, False
            yield from _walk(item, (*keys, index), seen)


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
