"""The addresses of a team in one file: `--site site.yaml` of check, run and submit. osmo/site.yaml is an example."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from common.cli.config import Section, load
from osmo.check.template import TemplateError, parse_set, read


class Site(Section):
    """A team's OSMO server and pool, and its values for the workflow files."""

    host: str | None = Field(default=None, description="the server for osmo login")
    pool: str | None = Field(default=None, description="where workflows run")
    values: dict[str, str] = Field(default={}, description="default-values, each as text that --set takes")


def read_site(path: Path | None) -> Site:
    """Read a site file; without one, return an empty site."""
    return load(Site, path)


def with_site(site: Site, file: Path, sets: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return what --set takes: the values of the site that the file has and that are not given already, then `sets`."""
    given = parse_set(sets, texts)
    try:
        names = read(file).defaults.keys() - given.keys()
    except TemplateError:  # which the check of the file reports
        return list(sets)
    return [*(f"{name}={value}" for name, value in site.values.items() if name in names), *sets]
