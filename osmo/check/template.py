"""Renders a workflow file as OSMO does, and knows which line of the file each part of the document comes from.

OSMO renders twice. The server renders the file with its default-values; the command line then inlines the text of every
`localpath` and posts the result, which the server renders again, now without default-values.

Jinja keeps no record of lines. To find them, the file is rendered once more with ` #line N` at the end of its line N:
loops repeat these numbers and conditions drop them together with their lines, so line i of this numbered text tells
where line i of the rendered text comes from. The YAML nodes in turn know their line of the rendered text.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from jinja2.sandbox import SandboxedEnvironment

from common.cli.command import one_line

Keys = tuple[str | int, ...]
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# OSMO replaces its tokens after both passes; Jinja must not see them, and they are written without spaces.
TOKEN = re.compile(r"\{\{(output|workflow_id|uuid|input:[\w:-]+|host:[\w-]+)\}\}", re.ASCII)
_HIDDEN_TOKEN = re.compile(r"<osmo:([\w:-]+)>", re.ASCII)
_LOOSE_TOKEN = re.compile(r"\{\{\s*(?:output|workflow_id|uuid|(?:input|host)\s*:\s*[\w:-]+)\s*\}\}", re.ASCII)
JINJA = re.compile(r"\{\{|\{%|\{#")
_SECTION = re.compile(r"^default-values:.*\n(?:(?:[ \t#-].*)?\n)*", re.MULTILINE)
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
    """A workflow file: its text, the text with the lines of default-values left empty, and the default-values."""

    raw: str
    text: str
    defaults: dict[str, Any]

    def render(self, values: Mapping[str, Any]) -> Rendered:
        """Do the first pass; raises TemplateError with the line of the file."""
        for name in values:
            if name not in self.defaults:
                close = difflib.get_close_matches(name, self.defaults, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(self.defaults) or 'none'}"
                raise TemplateError(0, f"--set {name}: not among the default-values; {hint}")
        values = {**self.defaults, **values}
        text = _render(self.text, values)
        origins = _origins(self.text, values, text)
        try:
            node, document = _load(text)
        except yaml.YAMLError as error:
            mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
            line = origins.get(mark.line if mark else 0, 1)
            raise TemplateError(line, f"not valid YAML once rendered: {one_line(error)}") from error
        lines: dict[Keys, int] = {(): 1}
        duplicates: list[Keys] = []
        for keys, line, is_duplicate in _walk(node, (), set()):
            lines[keys] = origins.get(line, 1)
            duplicates += [keys] if is_duplicate else []
        return Rendered(document, lines, duplicates)


def read(path: Path) -> Template:
    """Read a workflow file; raises TemplateError when it is no text or its default-values are no mapping."""
    try:
        raw = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(0, f"cannot be read: {one_line(error)}") from error
    for loose in _LOOSE_TOKEN.finditer(raw):
        token = re.sub(r"\s", "", loose[0])
        if token != loose[0]:
            raise TemplateError(_line(raw, loose.start()), f"{loose[0]}: a token takes no spaces; write {token}")
    section = _SECTION.search(raw if raw.endswith("\n") else raw + "\n")
    if not section:
        return Template(raw, raw, {})
    try:
        _, content = _load(section[0])
    except yaml.YAMLError as error:
        raise TemplateError(_line(raw, section.start()), f"default-values: {one_line(error)}") from error
    defaults = content.get("default-values") if isinstance(content, dict) else None
    if not isinstance(defaults, dict):
        raise TemplateError(_line(raw, section.start()), "default-values: expected a mapping of names to values")
    text = raw[: section.start()] + "\n" * section[0].count("\n") + raw[section.end() :]
    return Template(raw, text, defaults)


def submitted(document: Any, folder: Path) -> Any:
    """Do what follows the first pass: inline every `localpath` of `files`, and render once more without values.

    Raises TemplateError when the second pass fails on an inlined text.
    """
    for task in all_tasks(document):
        for file in task.get("files", ()):
            if "localpath" in file:
                file["contents"] = (folder / file.pop("localpath")).read_text(encoding="utf-8")
    rendered = _render(yaml.safe_dump({"workflow": document["workflow"]}, sort_keys=False), {})
    try:
        return _load(rendered)[1]
    except yaml.YAMLError as error:
        raise TemplateError(0, f"not valid YAML once rendered twice: {one_line(error)}") from error


def all_tasks(document: Any) -> list[dict[str, Any]]:
    """Return the tasks of a rendered workflow, those of groups included, in the order of the file."""
    workflow = document["workflow"]
    groups = workflow.get("groups") or [{"tasks": workflow.get("tasks", [])}]
    return [task for group in groups for task in group["tasks"]]


def parse_set(texts: list[str], as_text: list[str]) -> dict[str, Any]:
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


def _load(text: str) -> tuple[yaml.Node | None, Any]:
    """Return the root node of a YAML document, which knows its lines, and its content; raises YAMLError."""
    loader = LOADER(text)
    try:
        node = loader.get_single_node()
        return node, loader.construct_document(node) if node else None
    except (ValueError, TypeError, AttributeError, OverflowError, LookupError) as error:
        # PyYAML lets these through for a number or a date that is none, such as 2024-13-45.
        raise yaml.YAMLError(f"a value does not have the form of its type: {one_line(error)}") from error


def _render(text: str, values: Mapping[str, Any]) -> str:
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    try:
        rendered = environment.from_string(TOKEN.sub(r"<osmo:\1>", text)).render(values)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(error.lineno, f"not a valid template: {error.message}") from error
    except Exception as error:  # a template can raise whatever its expressions raise
        line = _template_line(error)
        source = text.splitlines()[line - 1].strip() if line else ""
        raise TemplateError(line, f"cannot be rendered: {one_line(error)} in: {source}") from error
    return _HIDDEN_TOKEN.sub(r"{{\1}}", rendered)


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
        lines = _render(numbered, values).splitlines()
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
