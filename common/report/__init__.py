"""The pages and cards that the stages write: one template to extend, one style sheet, charts, images and number formats.

A page is a single HTML file that needs no network; a script inside it may add to it, and it is whole without. `render` fills
its template.
"""

import functools
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from common.report import formatting


def render(package: str, template: str, **context: Any) -> str:
    """Return the page or card that `template`, a file of `package`, makes of `context`.

    A page extends base.html.j2 and imports components.html.j2, both in common/report; its values are escaped. A card is
    Markdown (.md.j2). A name that is not in the context is an error.
    """
    return _environment(package).get_template(template).render(**context)


@functools.cache  # it keeps the compiled templates: compiling takes longer than rendering
def _environment(package: str) -> Environment:
    loader = ChoiceLoader([PackageLoader(package, ""), PackageLoader("common.report", "")])
    environment = Environment(
        loader=loader,
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(formatting, name) for name in formatting.FILTERS})
    return environment
