"""Makes text from anywhere safe to show, and numbers that differ look different.

Exception messages, file names and profiles are written by others. Control sequences could move a
terminal's cursor, direction marks could reverse a line, and lone surrogates cannot be encoded.
"""

from __future__ import annotations

import re
import unicodedata

MOST_DIGITS = 17
"""Enough to tell any two float64 numbers apart."""
LIMIT = 10_000
"""Characters of one text that are stored and shown."""
_KEPT = "\n\t"
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode categories that a terminal may obey, or that change how text around them is read:
controls, format characters such as those that turn the direction of writing, surrogates, characters
of private use, what is no character, separators of lines and paragraphs."""


def printable(text: object, limit: int = LIMIT, *, lines: bool = False) -> str:
    """Text that shows as what it is and does nothing else; hidden characters as ``\\x1b``.

    On one line, or with its line breaks and tabs where ``lines`` are wanted. At most ``limit``
    characters of the text, and a note of how many were cut.
    """
    told = str(text)
    left = len(told) - limit
    told = told[:limit]
    if not (told.isascii() and told.isprintable()):
        told = told.replace("\r\n", "\n") if lines else re.sub(r"[ \t\r\n]+", " ", told)
        told = "".join(map(_visible, told))
    if not lines:
        told = re.sub(" +", " ", told).strip(" ")
    return f"{told} ... ({left} more characters)" if left > 0 else told


def _visible(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def told_apart(value: float, other: float, form: str = ".3g") -> tuple[str, str]:
    """Two numbers, with as many digits more as it takes to tell them apart.

    ``form`` is how they are written where that is enough.
    """
    digits, kind = int(form[1:-1]), form[-1]
    ours, theirs = f"{value:{form}}", f"{other:{form}}"
    while ours == theirs and value != other and digits < MOST_DIGITS:
        digits += 1
        ours, theirs = f"{value:.{digits}{kind}}", f"{other:.{digits}{kind}}"
    return ours, theirs
