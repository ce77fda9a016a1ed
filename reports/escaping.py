"""Text from anywhere, made harmless for the format that it is written in."""

from __future__ import annotations

import html as _html
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from vae_compat.text import LIMIT, printable

_MARKDOWN = str.maketrans({"\\": "\\\\", "`": "\\`", "*": "\\*", "<": "&lt;", "&": "&amp;"})
_Shown = TypeVar("_Shown")


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
