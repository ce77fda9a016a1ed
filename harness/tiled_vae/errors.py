"""What can go wrong, in words for the person who called."""

from __future__ import annotations


class TilingError(ValueError):
    """The hook was used in a way that cannot work; the message says what to do."""


class UnknownCoderError(Exception):
    """A coder, or a call of one, that this package does not know how to tile exactly.

    Never shown to a caller: the original forward runs instead, and the reason is logged once.
    """
