"""Configuration: values convert by the type of their field, and errors name key, value and expectation."""

from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from common.cli import config
from common.cli.command import UserError
from common.cli.config import Section
from common.cli.validation import validate


class Inner(Section):
    rate: float = Field(default=1e-5, ge=0, le=1, description="a rate")
    count: int = Field(default=3, ge=1, description="a count")
    flag: bool = Field(default=False, description="a flag")
    name: str = Field(default="x", description="a name")
    size: list[Annotated[int, Field(ge=1)]] | None = Field(default=None, description="a size")
    map: dict[str, str] = Field(default={}, description="a map")


class Outer(Section):
    inner: Inner = Inner()


def test_a_rate_written_as_5e_5_is_a_number() -> None:
    assert config.load(Outer, None, ["inner.rate=5e-5"]).inner.rate == 5e-5


@pytest.mark.parametrize("text", ["no", "010", "12:30", "null_", "true"])
def test_text_stays_the_text_that_was_written(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"inner: {{name: {text}}}")
    assert config.load(Outer, tmp_path / "c.yaml").inner.name == text


def test_a_config_file_that_is_not_there_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "nope.yaml"
    with pytest.raises(UserError, match=rf"^cannot read the config file {path}: No such file or directory$"):
        config.load(Outer, path)


def test_an_override_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("inner:\n  count: 7\n  flag: true\n")
    loaded = config.load(Outer, tmp_path / "c.yaml", ["inner.count=8"])
    assert (loaded.inner.count, loaded.inner.flag, loaded.inner.rate) == (8, True, 1e-5)


@pytest.mark.parametrize("text", ["run #3", "#3", "a#b", "it's", "/data/my runs/3"])
def test_an_override_has_no_comments(text: str) -> None:
    assert config.load(Outer, None, [f"inner.name={text}"]).inner.name == text


@pytest.mark.parametrize("text", ["", '""', "''"])
def test_an_override_can_be_empty(text: str) -> None:
    assert config.load(Outer, None, [f"inner.name={text}"]).inner.name == ""


def test_lists_maps_and_null_are_read() -> None:
    loaded = config.load(Outer, None, ["inner.size=[64, 96]", "inner.map={a: /t}", "inner.map.b=/u"])
    assert loaded.inner.size == [64, 96]
    assert loaded.inner.map == {"a": "/t", "b": "/u"}
    assert config.load(Outer, None, ["inner.size=null"]).inner.size is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("inner.cuont=4", ["inner.cuont", "inner.count"]),
        ("inenr.count=4", ["inenr", "did you mean inner?"]),
        ("inner.count=4.5", ["inner.count=4.5", "whole number"]),
        ("inner.count=true", ["inner.count=true", "whole number"]),
        ("inner.count=0", ["inner.count=0", "at least 1"]),
        ("inner.rate=2", ["inner.rate=2", "at most 1"]),
        ("inner.rate=nan", ["inner.rate=nan", "finite"]),
        ("inner.rate=fast", ["inner.rate=fast", "a number"]),
        ("inner.flag=yes", ["inner.flag=yes: expected true or false"]),
        ("inner.size=[64, 0]", ["inner.size", "at least 1"]),
        ("inner.size=64", ["inner.size=64", "a list"]),
        ("inner=5", ["inner='5'", "section"]),
        ("inner.count", ["key=value"]),
        ("inner.size=[1", ["not valid YAML"]),
    ],
)
def test_an_error_names_key_value_and_expectation(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        config.load(Outer, None, [override])
    for word in words:
        assert word in str(refusal.value)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("inner:\n  count: 7\n  count: 8\n")
    with pytest.raises(UserError, match="'count' is given twice"):
        config.load(Outer, tmp_path / "c.yaml")


@given(st.text(max_size=40))
def test_any_text_as_a_config_file_is_read_or_refused(text: str) -> None:
    try:
        tree = config._parse(text, "text")
        validate(Outer, tree)
    except UserError as refusal:
        assert str(refusal)  # either outcome is right, a crash is not


KEYS = [f"inner.{name}" for name in Inner.model_fields]


@given(st.sampled_from(KEYS), st.integers(0, 20), st.sampled_from("abcxyz_"), st.integers(0, 3))
def test_a_typo_in_a_key_suggests_the_key(key: str, at: int, letter: str, kind: int) -> None:
    section_name, name = key.split(".")
    at %= len(name)
    slip = {
        0: name[:at] + name[at + 1 :],
        1: name[:at] + letter + name[at:],
        2: name[:at] + letter + name[at + 1 :],
        3: name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
    }[kind]
    if f"{section_name}.{slip}" in KEYS or len(slip) < 3:
        return
    with pytest.raises(UserError, match=rf"unknown key {section_name}\.{slip}; (did you mean|known here:).*{key}"):
        config.load(Outer, None, [f"{section_name}.{slip}=1"])


@given(st.dictionaries(st.sampled_from([*KEYS, "inner", "inner.size"]), st.text(max_size=20), max_size=4))
def test_any_overrides_are_read_or_refused(overrides: dict[str, str]) -> None:
    try:
        loaded = config.load(Outer, None, [f"{key}={value}" for key, value in overrides.items()])
    except UserError as refusal:
        assert str(refusal)
    else:
        assert validate(Inner, loaded.model_dump(mode="json")["inner"], strict=True) == loaded.inner
