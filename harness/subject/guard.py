"""Undoes what a hook does to the process."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from vae_compat.subject.imports import Imports


@contextmanager
def guarded() -> Iterator[None]:
    """Puts back search path, streams, warning filters and log handlers.

    Warnings are ignored inside: they are the hook's, and under a strict test configuration they
    would count as its failures.
    """
    path = list(sys.path)
    finders = [finder for finder in sys.meta_path if not isinstance(finder, Imports)]
    streams = (sys.stdout, sys.stderr)
    loggers = _loggers()
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            sys.path[:] = path
            sys.meta_path[:] = finders
            sys.stdout, sys.stderr = streams
            logging.disable(disabled)
            _restore_loggers(loggers)


class ImportsFolder:
    """Puts back the working directory that an import has left.

    Where calls change it afterwards, it stays: that is told as theirs.
    """

    _left: Path | None

    def __enter__(self) -> ImportsFolder:
        self._before = Path.cwd()
        self._left = None
        return self

    def settled(self) -> None:
        """The import is over."""
        self._left = Path.cwd()

    def __exit__(self, *exc: object) -> None:
        if self._left is None or self._left == Path.cwd():
            os.chdir(self._before)


@contextmanager
def silenced() -> Iterator[None]:
    """Swallows what is printed inside."""
    with redirect_stdout(_Sink()), redirect_stderr(_Sink()):
        yield


class _Sink(io.StringIO):
    """Accepts and drops everything, and stays open for handlers that still refer to it."""

    def write(self, text: str) -> int:
        return len(text)

    def close(self) -> None:
        pass


_LoggerState = tuple[list[logging.Handler], int, bool, bool]


def _loggers() -> dict[logging.Logger, _LoggerState]:
    known = [logging.root, *logging.root.manager.loggerDict.values()]
    return {
        logger: (list(logger.handlers), logger.level, logger.propagate, logger.disabled)
        for logger in known
        if isinstance(logger, logging.Logger)
    }


def _restore_loggers(before: dict[logging.Logger, _LoggerState]) -> None:
    for logger in _loggers():
        fresh: _LoggerState = ([], logging.NOTSET, True, False)
        handlers, level, logger.propagate, logger.disabled = before.get(logger, fresh)
        logger.handlers[:] = handlers
        if logger.level != level:
            logger.setLevel(level)
