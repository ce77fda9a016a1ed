"""Writes index.html."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from vae_compat.reports.pictures.drawing import STOPS
from vae_compat.reports.results import Results, write_text
from vae_compat.reports.templating import environment

from .charts import HEIGHT, WIDTH
from .counted import COLUMNS
from .page import COSTS, Page, page_of

FILE_NAME = "index.html"


def write_page(results: Results, folder: Path) -> Path:
    """Write ``folder/index.html`` with the pictures that lie in the folder, and return its path.

    Raises ``UsageError`` where that cannot be.
    """
    return write_text(folder / FILE_NAME, to_html(page_of(results, folder)))


def to_html(page: Page) -> str:
    """The page, with everything that it needs in it.

    Its own policy lets a browser run this script and no other, and load nothing.
    """
    templates = environment("vae_compat.reports.html", autoescape=True)
    style, script = _text("style.css"), _text("script.js")
    return templates.get_template("index.html.j2").render(
        page=page,
        style=Markup(style),  # a file of this package
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        stops=STOPS,
        size=(WIDTH, HEIGHT),
        count_heads=tuple(COLUMNS),
        costs=COSTS,
    )


@functools.cache
def _text(name: str) -> str:
    return (resources.files("vae_compat.reports.html") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
