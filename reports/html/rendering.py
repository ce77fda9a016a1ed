"""Writes index.html."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vae_compat.reports.pictures.drawing import STOPS
from vae_compat.reports.results import Results, write_text
from vae_compat.reports.templating import environment

from .charts import HEIGHT, WIDTH
from .counted import COLUMNS
from .page import COSTS, Page, page_of

FILE_NAME = "index.html"
PACKAGE = "vae_compat.reports.html"


def write_page(results: Results, folder: Path) -> Path:
    """Write ``folder/index.html`` with the pictures that lie in the folder, and return its path.

    Raises ``UsageError`` where that cannot be.
    """
    return write_text(folder / FILE_NAME, to_html(page_of(results, folder)))


def to_html(page: Page) -> str:
    """The page, with everything that it needs in it.

    Its own policy lets a browser run this script and no other, and load nothing.
    """
    script = _text("script.js")
    return drawn(
        PACKAGE,
        "index.html.j2",
        page=page,
        script=Markup(script),  # a file of this package
        script_hash=_hash(script),
        count_heads=tuple(COLUMNS),
        costs=COSTS,
    )


def drawn(package: str, template: str, **told: Any) -> str:
    """A template of a package, with the style and the macros of this one."""
    style = _text("style.css")
    return (
        environment(package, PACKAGE, autoescape=True)
        .get_template(template)
        .render(
            style=Markup(style),  # a file of this package
            style_hash=_hash(style),
            stops=STOPS,
            size=(WIDTH, HEIGHT),
            **told,
        )
    )


@functools.cache
def _text(name: str) -> str:
    return (resources.files(PACKAGE) / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
