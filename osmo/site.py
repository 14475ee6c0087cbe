"""The addresses of a team in one file: `--site site.yaml` of check, run and submit. osmo/site.yaml is an example."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel

from common.cli.command import UserError, one_line
from common.cli.validation import show, validate
from osmo.check.template import TemplateError, parse_set, read

NEAR = 0.85  # a name this close to one of the file's is probably a mistake; any other belongs to another workflow file


class Site(BaseModel, frozen=True, extra="forbid"):
    """A team's OSMO server, its pool, and its values for the default-values of workflow files."""

    host: str | None = None
    pool: str | None = None
    values: dict[str, str | int | float | bool] = {}


def read_site(path: Path | None) -> Site:
    """Read a site file; an empty site without one. Raises UserError when it is not of that form."""
    if path is None:
        return Site()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--site {path} cannot be read: {one_line(error)}") from error
    return validate(Site, content or {}, f"--site {path}: ")


def with_site(site: Site, file: Path, sets: Sequence[str], texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return --set and --set-string with the values of the site that the file uses and that are not given already."""
    given = parse_set(sets, texts)
    try:
        template = read(file)
        unused = template.unused({**site.values, **given})
    except TemplateError:  # which the check of the file reports
        return list(sets), list(texts)
    found: tuple[list[str], list[str]] = ([], [])
    for name, value in site.values.items():
        is_mistake = name not in template.defaults and difflib.get_close_matches(name, template.defaults, cutoff=NEAR)
        if name not in given and (name not in unused or is_mistake):  # a mistake is kept for the check to report
            pair = f"{name}={show(value)}"
            is_text = isinstance(value, str) and parse_set([pair], [])[name] != value  # a text that looks like a number
            found[is_text].append(pair)
    return [*found[0], *sets], [*found[1], *texts]
