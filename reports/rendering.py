"""Writes all reports of a run from its results."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TextIO

from .html.rendering import write_page
from .junit import write_junit
from .results import Results, write
from .summary import write_summary
from .table import to_text


def print_table(results: Results, stream: TextIO) -> bool:
    """Print the terminal report; returns whether the output was still open."""
    terminal = stream.isatty()
    width = shutil.get_terminal_size((80, 24)).columns if terminal else 80
    return say(to_text(results, width=width, colour=terminal), stream)


def say(text: str, stream: TextIO) -> bool:
    """Write a text; returns whether the output was still open."""
    try:
        stream.write(_encodable(text, stream))
        stream.flush()
    except (OSError, ValueError):
        return False
    return True


def write_all(results: Results, folder: Path, junitxml: Path | None = None) -> None:
    """Write results.json, summary.md, memory.svg, index.html and, where wanted, JUnit XML.

    Raises ``UsageError`` where that cannot be.
    """
    write(results, folder)
    write_summary(results, folder)
    write_page(results, folder)
    if junitxml is not None:
        write_junit(results, junitxml)


def _encodable(text: str, stream: TextIO) -> str:
    """The text with what the stream's encoding does not have as escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
