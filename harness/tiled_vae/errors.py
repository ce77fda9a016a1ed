"""Errors of the reference hook, worded for its user."""

from __future__ import annotations


class TilingError(ValueError):
    """The hook was used in a way that cannot work; the message says what to do."""


class UnknownCoderError(Exception):
    """A coder, or a call of one, that this package cannot tile exactly.

    It never reaches the caller: the original forward runs instead, and the reason is logged once.
    """
