"""Text as Markdown: lines, cells, tables and blocks that any text leaves whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vae_compat.text import printable

from .escaping import markdown


def line(text: object) -> str:
    """One line of text."""
    return markdown(text)


def code(text: object) -> str:
    """One line as it is, in a span of code that no backtick in it ends."""
    told = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", told)), default=0))
    pad = " " if "`" in told or not told.strip() else ""
    return f"{fence}{pad}{told}{pad}{fence}"


def cell(text: object) -> str:
    """One line that may stand in a table cell."""
    return line("" if text is None else text).replace("|", "\\|")


def table(rows: Iterable[Iterable[object]], head: Sequence[object]) -> str:
    """A table, without a line break at its end. What is `Markdown` already is left so."""
    body = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_celled(text) for text in row)} |" for row in body)


class Markdown(str):
    """Text that is Markdown already, and fits into a cell."""

    __slots__ = ()


def _celled(text: object) -> str:
    return str(text).replace("|", "\\|") if isinstance(text, Markdown) else cell(text)


def block(text: object) -> str:
    """An indented code block: shows any text as it is."""
    lines = printable(text, lines=True).strip().splitlines() or ["no message"]
    return "\n".join(f"    {each}".rstrip() for each in lines)
