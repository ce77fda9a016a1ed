"""Text from anywhere, made harmless for where it is shown.

Exception messages, file names and profiles are written by others. Control sequences would move a
terminal's cursor, marks of direction would turn a line around, lone surrogates cannot be encoded.
"""

from __future__ import annotations

import html as _html
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

LIMIT = 10_000
"""Characters of one text that are stored and shown."""

_HIDDEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # controls: C0 with ESC, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks and overrides of direction
    "\u2028\u2029"  # separators of lines and paragraphs
    "\u200b\u2060\ufeff\ufff9-\ufffb"  # of no width
    "\ud800-\udfff"  # lone surrogates
    "\ufffe\uffff"  # no characters, and not allowed in XML
    "\U000e0000-\U000e007f"  # tags, of no width either
    "]"
)
_HIDDEN_IN_BLOCKS = re.compile(_HIDDEN.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
_MARKDOWN = str.maketrans({"\\": "\\\\", "`": "\\`", "*": "\\*", "<": "&lt;", "&": "&amp;"})
_Shown = TypeVar("_Shown")


def printable(text: object, limit: int = LIMIT, *, lines: bool = False) -> str:
    """Text that shows as what it is and does nothing else; hidden characters as ``\\x1b``.

    On one line, or with its line breaks and tabs where ``lines`` are wanted. At most ``limit``
    characters of the text, and a note of how many were cut.
    """
    told = str(text)
    left = len(told) - limit
    if left > 0:
        told = told[:limit]
    if lines:
        told = _HIDDEN_IN_BLOCKS.sub(_visible, told.replace("\r\n", "\n"))
    else:
        told = _HIDDEN.sub(_visible, re.sub(r"[ \t\r\n]+", " ", told).strip(" "))
    return f"{told} ... ({left} more characters)" if left > 0 else told


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def markdown(text: object, limit: int = LIMIT) -> str:
    """One line of Markdown that reads as the text: no link, picture, code or HTML comes of it."""
    return re.sub(r"\](?=[(\[])", r"\]", printable(text, limit).translate(_MARKDOWN))


def xml(text: object, limit: int = LIMIT) -> str:
    """Text or attribute of an XML document."""
    return _html.escape(printable(text, limit, lines=True)).replace("\n", "&#10;")


def html(text: object, limit: int = LIMIT) -> str:
    """Text or attribute of an HTML document."""
    return _html.escape(printable(text, limit, lines=True))


def shown(value: _Shown) -> _Shown:
    """The same data with every text in it ``printable``; line breaks stay."""
    found: Any = value
    if isinstance(found, str):
        told = printable(found, lines=True)
        found = found if told == found else told
    elif isinstance(found, Mapping):
        found = {shown(key): shown(item) for key, item in found.items()}
    elif isinstance(found, tuple | list):
        found = type(found)(shown(item) for item in found)
    elif is_dataclass(found) and not isinstance(found, type):
        changed = {field.name: shown(getattr(found, field.name)) for field in fields(found)}
        found = replace(found, **changed)
    return found  # type: ignore[no-any-return]
