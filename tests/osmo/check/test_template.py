from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from common.cli.command import UserError
from osmo.check.template import Rendered, TemplateError, parse_set, read, submitted


def rendered(tmp_path: Path, text: str, **values: Any) -> Rendered:
    (tmp_path / "flow.yaml").write_text(dedent(text))
    return read(tmp_path / "flow.yaml").render(values)


LOOP = """\
    workflow:
      name: "{{ name }}"
      tasks:
      # {% for i in range(count) %}
      - name: "task-{{ i }}"
        args:
        - |
          echo {{output}} {{input:0}}
          echo {{ i }}
      # {% endfor %}

    default-values:
      name: first
      count: 2
    """


def test_tokens_pass_through_both_renderings(tmp_path: Path) -> None:
    document = rendered(tmp_path, LOOP).document
    again = submitted(document, tmp_path, {})
    assert again["workflow"]["tasks"][1]["args"] == ["echo {{output}} {{input:0}}\necho 1\n"]


def test_every_part_has_its_line_of_the_file(tmp_path: Path) -> None:
    found = rendered(tmp_path, LOOP)
    for task in (0, 1):
        assert found.line(("workflow", "tasks", task, "name")) == 5
        assert found.line(("workflow", "tasks", task, "args", 0)) == 7
        assert found.line(("workflow", "tasks", task, "nothing")) == 5


def test_only_the_section_workflow_is_rendered(tmp_path: Path) -> None:
    above = "# {{ nobody }}\n{# {{ output }} #}\nversion: 3\n"
    assert (
        rendered(tmp_path, above + dedent(LOOP) + "  other: '{{ nobody }}'\n").document["workflow"]["name"] == "first"
    )
    with pytest.raises(TemplateError, match="'n' is undefined") as caught:
        rendered(tmp_path, '{% set n = 1 %}\nworkflow:\n  name: "{{ n }}"\n')
    assert caught.value.line == 3
    with pytest.raises(TemplateError, match="workflow: is missing"):
        rendered(tmp_path, "default-values: {a: 1}\n")
    with pytest.raises(TemplateError, match="workflow: is given twice"):
        rendered(tmp_path, "workflow: {}\nworkflow: {}\n")


@pytest.mark.parametrize(
    ("line", "number", "words"),
    [
        ("name: {{ output }}", 2, "{{ output }}: a token takes no spaces; write {{output}}"),
        ("name: '{{ input:0 }}'", 2, "write {{input:0}}"),
        ("name: '{{nmae}}'", 2, "'nmae' is undefined"),
        ("name: '{{ {\"url\": 1}[bags] }}'", 2, "has no attribute 'here'"),
        ("name: {% if %}", 2, "not a valid template"),
        ("name: [}", 2, "not valid YAML once rendered"),
    ],
)
def test_a_render_error_names_the_line(tmp_path: Path, line: str, number: int, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        rendered(tmp_path, f"workflow:\n  {line}\ndefault-values:\n  bags: here\n")
    assert words in str(caught.value)
    assert caught.value.line == number


def test_a_file_that_is_not_there_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    path = tmp_path / "nope.yaml"
    with pytest.raises(UserError, match=rf"^cannot read the workflow file {path}: No such file or directory$"):
        read(path)


def test_set_tries_whole_numbers_then_numbers_then_text_as_osmo_does() -> None:
    values = parse_set(["a=1", "b=1e-5", "c=true", "d=x=y"], ["e=1e-5", "f=1"])
    assert values == {"a": 1, "b": 1e-5, "c": "true", "d": "x=y", "e": "1e-5", "f": "1"}
    assert str(values["b"]) == "1e-05"  # what the file then holds
    with pytest.raises(TemplateError, match="expected name=value"):
        parse_set(["a"], [])
