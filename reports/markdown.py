"""Text as Markdown: lines, cells, tables and blocks that any text leaves whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def line(text: object) -> str:
    """One line of text."""
    return " ".join(str(text).split())


def cell(text: object) -> str:
    """One line that may stand in a table cell."""
    return line("" if text is None else text).replace("|", "\\|")


def table(rows: Iterable[Iterable[object]], head: Sequence[str]) -> str:
    """A table, without a line break at its end."""
    body = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell(text) for text in row)} |" for row in body)


def block(text: object) -> str:
    """An indented code block: shows any text as it is."""
    lines = str(text).strip().splitlines() or ["no message"]
    return "\n".join(f"    {each}".rstrip() for each in lines)
