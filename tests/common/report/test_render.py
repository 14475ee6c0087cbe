"""A page is one document that escapes what it is given, and refuses a name that it was not given."""

import pytest
from jinja2 import UndefinedError

from common.report import render

PAGE = """
{% extends "base.html.j2" %}
{% import "components.html.j2" as ui %}
{% set kind, title, lead, origin, sections = "Test", given, "", [("made from", "nothing")], [("a", "A")] %}
{% block verdict %}{% call ui.verdict("good", given) %}{% endcall %}{% endblock %}
{% block content %}{% call ui.section("a", "A") %}{{ ui.name(given) }} {{ extra }}{% endcall %}{% endblock %}
{% block footer %}{% endblock %}
"""


@pytest.fixture
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path_factory.mktemp("package") / "page_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "page.html.j2").write_text(PAGE)
    monkeypatch.syspath_prepend(folder.parent)
    return folder.name


def test_text_is_never_markup(package: str) -> None:
    page = render(package, "page.html.j2", given="<b>arm_1</b> & co", extra="")
    assert "<title>Test: &lt;b&gt;arm_1&lt;/b&gt; &amp; co</title>" in page
    assert "<b>" not in page
    assert "arm_<wbr>1" in page


def test_the_style_is_in_the_page_and_nothing_is_loaded(package: str) -> None:
    page = render(package, "page.html.j2", given="", extra="")
    assert "prefers-color-scheme: dark" in page
    assert "<script" not in page
    assert page.count("http") == 0


def test_a_name_that_was_not_given_is_an_error(package: str) -> None:
    with pytest.raises(UndefinedError, match="'extra' is undefined"):
        render(package, "page.html.j2", given="")
