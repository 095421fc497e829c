"""The pages of runs and reports: one design, in files that open anywhere, without a network and without
scripts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def page_environment(package: str) -> Environment:
    """Where a package's page templates are rendered.

    Args:
        package: has the templates in its folder `templates`; each extends `page.html.jinja`.

    Returns:
        An environment that escapes every value and refuses one that is not defined.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("matchgraph")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
