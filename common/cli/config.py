"""YAML text and `--override key=value` in, one frozen, typed configuration out.

Every field has its default and its explanation beside it (`option`). Values are converted by the declared type of the
field, never by YAML's guesses: YAML 1.1 would read `5e-5` as text, `no` as False and `12:30` as 750.
"""

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from common.cli.command import UserError

C = TypeVar("C")
NULLS = ("", "null", "~")


def option(default: Any, doc: str, low: float | None = None, high: float | None = None) -> Any:
    """Declare a config field: its default, what it means, and the closed range it must lie in."""
    metadata = {"doc": doc, "low": low, "high": high}
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(cls: type[C]) -> C:
    """Declare a nested section with the defaults of `cls`."""
    return dataclasses.field(default_factory=cls)


class _TextLoader(yaml.BaseLoader):
    """Reads every scalar as text and refuses a key given twice (PyYAML would keep the last in silence)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load(cls: type[C], path: Path | None, overrides: Sequence[str] = ()) -> C:
    """Build `cls` from a YAML file (or its defaults alone) and dotted `key=value` overrides.

    Raises UserError naming the key, the value, what was expected and the nearest known key.
    """
    return _build(cls, _tree(path, overrides), "")


def from_json(cls: type[C], values: Mapping[str, Any]) -> C:
    """Build `cls` from values as JSON has them; raises UserError as `load` does, also for what has another type."""
    texts = {key: str(value) if isinstance(value, bool | int | float) else value for key, value in values.items()}
    return _build(cls, texts, "")


def keys_set(path: Path | None, overrides: Sequence[str], section: str) -> set[str]:
    """Return the keys of a section that the file or an override sets, whether to the default or not."""
    of = _tree(path, overrides).get(section)
    return set(of) if isinstance(of, dict) else set()


def to_dict(config: Any) -> dict[str, Any]:
    """Return the whole configuration as plain dicts, lists and scalars, ready for JSON."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(config))
    return plain


def describe(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (dotted key, default, explanation) of every option, in the order they are declared."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from describe(hints[field.name], f"{key}.")
        else:
            yield key, _show(_default(field)), field.metadata["doc"]


def _tree(path: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    tree = _read(path) if path else {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--override takes key=value: got {text!r}; write for example training.lr=5e-5")
        _put(tree, key.strip(), _value(value.strip(), f"--override {key.strip()}"))
    return tree


def _value(text: str, where: str) -> Any:
    """Read a value as YAML has it, but for its comments: in `data.path=/data/run #3` the number is part of the name."""
    value = _parse(text, where)
    is_cut = value is None or (isinstance(value, str) and value and text.startswith(value))
    return text if is_cut else value


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the config file {path}: {error}") from error
    tree = _parse(text, f"config file {path}")
    if tree is None or tree in NULLS:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"config file {path}: expected sections with keys, found {tree!r}")
    return tree


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_TextLoader) if text.strip() else ""  # noqa: S506 (builds text, lists and maps only)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{where} is not valid YAML: {error}") from error


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for name in parents:
        child = tree.get(name)
        tree[name] = child if isinstance(child, dict) else {}
        tree = tree[name]
    tree[last] = value


def _build(cls: type[C], tree: Any, prefix: str) -> C:
    if tree in NULLS:
        tree = {}
    if not isinstance(tree, dict):
        raise UserError(f"{prefix.rstrip('.')}={tree!r}: expected a section with keys")
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in tree:
        if name not in fields:
            raise UserError(f"unknown key {prefix}{name}{_nearest(cls, prefix, str(name))}")
    values: dict[str, Any] = {}
    for name, raw in tree.items():
        key, hint = f"{prefix}{name}", hints[name]
        if dataclasses.is_dataclass(hint):
            values[name] = _build(hint, raw, f"{key}.")  # type: ignore[arg-type]
        else:
            values[name] = _convert(raw, hint, key)
            _check_range(values[name], fields[name].metadata, key)
    try:
        return cls(**values)
    except ValueError as error:  # a dataclass's own check of fields that must fit each other
        raise UserError(str(error)) from error


def _nearest(cls: type[Any], prefix: str, name: str) -> str:
    known = [field.name for field in dataclasses.fields(cls)]
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {prefix}{close[0]}?"
    return f"; known here: {', '.join(prefix + k for k in known)}"


def _convert(raw: Any, hint: Any, key: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if raw is None or (isinstance(raw, str) and raw.lower() in NULLS):
            return None
        return _convert(raw, next(arg for arg in args if arg is not type(None)), key)
    if origin is Literal:
        if raw not in args:
            raise _wrong(key, raw, "one of " + ", ".join(map(str, args)))
        return raw
    if origin is list:
        if not isinstance(raw, list):
            raise _wrong(key, raw, "a list such as [1, 2]")
        return [_convert(item, args[0], f"{key}[{i}]") for i, item in enumerate(raw)]
    if origin is dict:
        if not isinstance(raw, dict):
            raise _wrong(key, raw, "a map such as {name: value}")
        return {name: _convert(item, args[1], f"{key}.{name}") for name, item in raw.items()}
    if not isinstance(raw, str):
        raise _wrong(key, raw, f"a single {hint.__name__}")
    return _scalar(raw, hint, key)


def _scalar(text: str, hint: type, key: str) -> Any:
    if hint is str:
        return text
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise _wrong(key, text, "true or false")
        return text.lower() == "true"
    if hint is int and re.fullmatch(r"[+-]?\d+(_\d+)*", text):
        return int(text)
    if hint is int:
        raise _wrong(key, text, "a whole number")
    try:
        number = float(text)
    except ValueError:
        raise _wrong(key, text, "a number") from None
    if not math.isfinite(number):
        raise _wrong(key, text, "a finite number")
    return number


def _check_range(value: Any, metadata: Mapping[str, Any], key: str) -> None:
    low, high = metadata["low"], metadata["high"]
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int | float) and not isinstance(number, bool):
            if low is not None and number < low:
                raise _wrong(key, number, f"at least {low:g}")
            if high is not None and number > high:
                raise _wrong(key, number, f"at most {high:g}")


def _wrong(key: str, value: Any, expected: str) -> UserError:
    return UserError(f"{key}={_show(value)}: expected {expected}")


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
