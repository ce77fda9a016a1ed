"""Text of strangers, made fit to be shown anywhere."""

from __future__ import annotations

import unicodedata

_KEPT = "\n\t"
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that a terminal may obey or that change how text around them is read:
controls, format characters such as those that turn the direction of writing, surrogates, line and
paragraph separators."""


def printable(text: str, most: int) -> str:
    """``text`` with every control character as a visible escape, cut to ``most`` characters.

    Line feeds and tabs stay: who shows text on one line folds them.
    """
    cut = text[:most]
    if not cut.isascii() or not cut.isprintable():
        cut = "".join(map(_shown, cut))
    left = len(text) - most
    return cut if left <= 0 else f"{cut}… ({left} characters more)"


def _shown(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
