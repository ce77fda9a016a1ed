"""Errors for people."""

from __future__ import annotations


class UsageError(Exception):
    """Wrong use: one sentence that says what was wrong, with which value, and what to do.

    Ends a run with exit code 2 before anything has run, without a traceback.
    """


class StoppedError(Exception):
    """The harness failed or was stopped before there was anything to report: exit code 3."""
