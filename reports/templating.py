"""How templates of this package are read."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def environment(*packages: str, autoescape: bool) -> Environment:
    """An environment for the templates in a package's own folder, then in those of further ones.

    What is missing is an error, and lines of tags alone leave nothing behind.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, ".") for package in packages]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=autoescape,
    )
