"""How templates of this package are read."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(package: str, *, autoescape: bool) -> Environment:
    """An environment for the templates in a package's own folder.

    What is missing is an error, and lines of tags alone leave nothing behind.
    """
    return Environment(
        loader=PackageLoader(package, "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=autoescape,
    )
