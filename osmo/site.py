"""The addresses of a team in one file: `--site site.yaml` of check, run and submit. osmo/site.yaml is an example."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from common.cli.config import Section, load
from osmo.check.template import TemplateError, parse_set, read

NEAR = 0.85  # a name this close to one of the file's is probably a mistake; any other belongs to another workflow file


class Site(Section):
    """A team's OSMO server and pool, and its values for the workflow files."""

    host: str | None = Field(default=None, description="the server for osmo login")
    pool: str | None = Field(default=None, description="where workflows run")
    values: dict[str, str] = Field(default={}, description="default-values, each as text that --set takes")


def read_site(path: Path | None) -> Site:
    """Read a site file; without one, return an empty site."""
    return load(Site, path)


def with_site(site: Site, file: Path, sets: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return what --set takes: the values of the site that the file uses and that are not given already, then `sets`."""
    given = parse_set(sets, texts)
    try:
        template = read(file)
        unused = template.unused({**site.values, **given})
    except TemplateError:  # which the check of the file reports
        return list(sets)
    found = []
    for name, value in site.values.items():
        is_mistake = name not in template.defaults and difflib.get_close_matches(name, template.defaults, cutoff=NEAR)
        if name not in given and (name not in unused or is_mistake):  # a mistake is kept for the check to report
            found.append(f"{name}={value}")
    return [*found, *sets]
