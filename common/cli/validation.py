"""Validation by pydantic, with errors of one line: the key, its value, what is expected, and the nearest known key."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from common.cli.command import UserError

M = TypeVar("M")
MAX_VALUE_CHARS = 80
# By the beginning of pydantic's error type; {} takes values from the error's context.
EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string_type": "text",
    "list": "a list in brackets, such as [a, b]",
    "tuple": "a list in brackets, such as [a, b]",
    "dict": "a map such as {{name: value}}",
    "model": "a section with keys",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
}


def validate(kind: type[M], value: Any, where: str = "", strict: bool = False) -> M:
    """Return `value` as `kind`, a model or any type that pydantic knows.

    Raises UserError, which begins with `where`. With `strict`, values must have their type already, as in JSON.
    """
    try:
        return TypeAdapter(kind).validate_python(value, strict=strict)
    except ValidationError as error:
        raise UserError(f"{where}{explain(error, kind)}") from error


def explain(error: ValidationError, kind: Any) -> str:
    """Return the first error as one line; an unknown key comes first, because it may be the cause of the others."""
    details = error.errors(include_url=False)
    first = next((detail for detail in details if detail["type"] == "extra_forbidden"), details[0])
    location, value, context = first["loc"], first["input"], first.get("ctx", {})
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(kind, location)}"
    if first["type"] == "value_error":  # raised by our own validators, whose text names the keys
        return str(context["error"])
    if first["type"] == "missing":
        return f"{key} is missing"
    expected = _expectation(first["type"], context) or first["msg"]
    shown = repr(value) if expected == EXPECTED["model"] else show(value)
    if len(shown) > MAX_VALUE_CHARS:
        shown = f"{shown[: MAX_VALUE_CHARS - 3]}..."
    return f"{key}={shown}: expected {expected}" if key else f"{shown}: expected {expected}"


def _expectation(type_: str, context: Mapping[str, Any]) -> str | None:
    if type_ == "literal_error":
        values = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        return f"one of {values}" if ", " in values else values
    names = [name for name in EXPECTED if type_.startswith(name)]
    return EXPECTED[max(names, key=len)].format(**context) if names else None


def show(value: Any) -> str:
    """Return a value as YAML spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _nearest(kind: Any, location: tuple[int | str, ...]) -> str:
    *parents, name = location
    fields, prefix = _fields(kind), ""
    for parent in parents:
        prefix += f"{parent}."
        fields = _fields(fields[str(parent)]) if str(parent) in fields else {}
    close = difflib.get_close_matches(str(name), fields, n=1)
    if close:
        return f"; did you mean {prefix}{close[0]}?"
    return f"; known here: {', '.join(prefix + field for field in fields)}" if fields else ""


def _fields(kind: Any) -> Mapping[str, Any]:
    """Return the fields of a model, or of the model in a list or an optional field, by name."""
    for option in (kind, *get_args(kind)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return {name: field.annotation for name, field in option.model_fields.items()}
    return {}
