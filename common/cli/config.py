"""Configuration: pydantic models filled from a YAML file and `--override key=value`.

Values convert by the declared type of their field, never by YAML's guesses: YAML 1.1 reads `5e-5` as text, `no` as False and
`12:30` as 750. Every field carries its default, its range and its description, from which the tables in docs/ are written.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from common.cli.command import UserError
from common.cli.validation import validate

NULLS = ("", "null", "~")


class Section(BaseModel):
    """A frozen group of settings, which may hold further sections; unknown keys, infinity and NaN are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read_empty(cls, value: Any) -> Any:
        """Take a section without keys for its defaults."""
        return {} if isinstance(value, str) and value in NULLS else value

    @field_validator("*", mode="before")
    @classmethod
    def _read_text(cls, value: Any, info: ValidationInfo) -> Any:
        """Read null, and only true and false as booleans; pydantic would also take `yes`, `on` and 1."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if not isinstance(value, str):
            return value
        if type(None) in get_args(annotation) and value.lower() in NULLS:
            return None
        if annotation is bool and value.lower() not in ("true", "false"):
            raise PydanticCustomError("bool_parsing", "expected true or false")
        return value


S = TypeVar("S", bound=Section)


class _TextLoader(yaml.BaseLoader):
    """Reads every scalar as text and refuses a key given twice (PyYAML would silently keep the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load(cls: type[S], path: Path | None, overrides: Sequence[str] = ()) -> S:
    """Build `cls` from a YAML file (or its defaults alone) and dotted `key=value` overrides.

    `model_fields_set` of a section tells which of its keys were given. Raises UserError naming the key, the value, what was
    expected and the nearest known key.
    """
    tree = _read(path) if path else {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--override takes key=value: got {text!r}; write for example training.lr=5e-5")
        _put(tree, key.strip(), _value(value.strip(), f"--override {key.strip()}"))
    return validate(cls, tree)


def changed(config: S, **values: Any) -> S:
    """Return a section with other values, checked like the first ones; raises UserError as `load` does."""
    return validate(type(config), {**dict(config), **values})


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the config file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the config file {path} is no UTF-8 text: {error}") from error
    tree = _parse(text, f"config file {path}")
    if tree is None or tree in NULLS:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"config file {path}: expected sections with keys, found {tree!r}")
    return tree


def _value(text: str, where: str) -> Any:
    """Parse a value as YAML, but without comments: in `data.path=/data/run #3` the number is part of the name."""
    value = _parse(text, where)
    is_cut = value is None or (isinstance(value, str) and value and text.startswith(value))
    return text if is_cut else value


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
