"""A workflow file and values for its template in; the document OSMO's server makes of it out, and each part's line.

OSMO renders twice. The server renders the file with its default-values; the command line then puts the text of every
`localpath` in its place and posts the result, which the server renders again, now without default-values.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from jinja2.sandbox import SandboxedEnvironment

from common.cli.command import one_line
from common.storage.foreign_yaml import load

Keys = tuple[str | int, ...]

# Tokens are OSMO's, not Jinja's: they stay as they are through both passes and must be written without spaces.
TOKEN = re.compile(r"\{\{(output|workflow_id|uuid|input:[\w:-]+|host:[\w-]+)\}\}", re.ASCII)
_LOOSE_TOKEN = re.compile(r"\{\{\s*(?:output|workflow_id|uuid|(?:input|host)\s*:\s*[\w:-]+)\s*\}\}", re.ASCII)
JINJA = re.compile(r"\{\{|\{%|\{#")
_SECTION = re.compile(r"^default-values:.*\n(?:(?:[ \t#-].*)?\n)*", re.MULTILINE)
_MARK = re.compile("\ue000(\\d+)\ue001")  # private characters that say which line of the file a rendered line came from
_PRIVATE = re.compile("[\ue000-\ue003]")  # of these, and of those that stand for tokens meanwhile
MAX_ROUNDS = 100_000  # of all loops of a template


class TemplateError(Exception):
    """The file cannot be rendered or read; `line` is where, 0 when unknown."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class Rendered(NamedTuple):
    """The document after the first pass, and the line of the file that each of its parts came from."""

    document: Any
    lines: dict[Keys, int]
    twice: list[Keys]  # keys that stand twice in one mapping, of which YAML keeps the last in silence

    def line(self, keys: Keys) -> int:
        """The line of a part, or of the nearest part around it."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)


@dataclass(frozen=True)
class Template:
    """A workflow file: its text without the default-values (their lines left empty), and the default-values."""

    path: Path
    raw: str
    text: str
    defaults: dict[str, Any]

    def render(self, values: Mapping[str, Any]) -> Rendered:
        """Do the first pass; raises TemplateError naming the line of the file."""
        for name in values:
            if name not in self.defaults:
                close = difflib.get_close_matches(name, self.defaults, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(self.defaults) or 'none'}"
                raise TemplateError(0, f"--set {name}: not among the default-values; {hint}")
        known = {**self.defaults, **values}
        text = _render(self.text, known)
        try:
            node, document = load(text)
        except yaml.YAMLError as error:
            line = error.problem_mark.line if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else 0
            origin = self._origins(known, text)
            raise TemplateError(origin(line), f"not valid YAML once rendered: {one_line(error)}") from error
        origin = self._origins(known, text)
        lines: dict[Keys, int] = {(): 1}
        twice: list[Keys] = []
        for keys, line, again in _walk(node, ()):
            lines[keys] = origin(line)
            twice += [keys] if again else []
        return Rendered(document, lines, twice)

    def _origins(self, known: Mapping[str, Any], text: str) -> Any:
        """Return a function from a line of the rendered text (from 0) to the line of the file (from 1)."""
        marked = "".join(
            f"{line}\ue000{number}\ue001\n" for number, line in enumerate(self.text.splitlines(keepends=False), 1)
        )
        try:
            rendered = _render(marked, known).splitlines()
        except TemplateError:  # an expression over several lines has no room for marks
            rendered = []
        if len(rendered) != len(text.splitlines()):
            return lambda _: 1
        found = [_MARK.findall(line) for line in rendered]
        return lambda line: int(found[line][-1]) if line < len(found) and found[line] else 1


def read(path: Path) -> Template:
    """Read a workflow file; raises TemplateError when it is no text or its default-values are no mapping."""
    try:
        raw = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(0, f"cannot be read: {one_line(error)}") from error
    if private := _PRIVATE.search(raw):
        message = f"holds the private character U+{ord(private[0]):04X}, which nobody can see"
        raise TemplateError(_line(raw, private.start()), message)
    for loose in _LOOSE_TOKEN.finditer(raw):
        token = re.sub(r"\s", "", loose[0])
        if token != loose[0]:
            raise TemplateError(_line(raw, loose.start()), f"{loose[0]}: a token takes no spaces; write {token}")
    section = _SECTION.search(raw if raw.endswith("\n") else raw + "\n")
    if not section:
        return Template(path, raw, raw, {})
    try:
        _, tree = load(section[0])
    except yaml.YAMLError as error:
        raise TemplateError(_line(raw, section.start()), f"default-values: {one_line(error)}") from error
    defaults = tree.get("default-values") if isinstance(tree, dict) else None
    if not isinstance(defaults, dict):
        raise TemplateError(_line(raw, section.start()), "default-values: expected a mapping of names to values")
    text = raw[: section.start()] + "\n" * section[0].count("\n") + raw[section.end() :]
    return Template(path, raw, text, defaults)


def submitted(document: Any, folder: Path) -> Any:
    """Do what follows the first pass: inline every `localpath` of `files`, and render once more without values.

    Raises TemplateError when the second pass trips over what was inlined.
    """
    for task in all_tasks(document):
        for file in task.get("files", ()):
            if "localpath" in file:
                file["contents"] = (folder / file.pop("localpath")).read_text(encoding="utf-8")
    rendered = _render(yaml.safe_dump({"workflow": document["workflow"]}, sort_keys=False), {})
    try:
        return load(rendered)[1]
    except yaml.YAMLError as error:
        raise TemplateError(0, f"not valid YAML once rendered twice: {one_line(error)}") from error


def all_tasks(document: Any) -> list[dict[str, Any]]:
    """Return the tasks of a rendered workflow, those of groups included, in the file's order."""
    workflow = document["workflow"]
    groups = workflow.get("groups") or [{"tasks": workflow.get("tasks", [])}]
    return [task for group in groups for task in group["tasks"]]


def parse_set(texts: list[str], as_text: list[str]) -> dict[str, Any]:
    """Return the values of --set (a whole number, else a number, else text, as OSMO tries them) and --set-string."""
    values: dict[str, Any] = {}
    for text in texts:
        name, value = _split(text)
        values[name] = _number(value)
    return values | dict(map(_split, as_text))


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


def _render(text: str, values: Mapping[str, Any]) -> str:
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\ue002{len(kept) - 1}\ue003"

    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    left = MAX_ROUNDS

    def count_down(*bounds: int) -> range:
        """Be `range` to the template: loops within loops would not end in anybody's lifetime."""
        nonlocal left
        numbers = range(*bounds)
        left -= len(numbers)
        if left < 0:
            raise OverflowError(f"loops of more than {MAX_ROUNDS:,} rounds")
        return numbers

    environment.globals["range"] = count_down
    try:
        rendered = environment.from_string(TOKEN.sub(keep, text)).render(values)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(error.lineno, f"not a valid template: {error.message}") from error
    except Exception as error:  # a template can raise whatever its expressions raise
        line = _template_line(error)
        source = text.splitlines()[line - 1].strip() if line else ""
        raise TemplateError(line, f"cannot be rendered: {one_line(error)} in: {source}") from error
    return re.sub("\ue002(\\d+)\ue003", lambda match: kept[int(match[1])], rendered)


def _template_line(error: BaseException) -> int:
    line, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _walk(node: yaml.Node | None, keys: Keys) -> Iterator[tuple[Keys, int, bool]]:
    """Yield every part of a document: its keys, its line from 0, and whether its key had been given before."""
    if isinstance(node, yaml.MappingNode):
        seen: set[Any] = set()
        for key, value in node.value:
            yield (*keys, key.value), key.start_mark.line, key.value in seen
            seen.add(key.value)
            yield from _walk(value, (*keys, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            yield (*keys, place), item.start_mark.line, False
            yield from _walk(item, (*keys, place))


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
