"""``vae-compat annotate``: failures as GitHub shows them, at the hook's own file and line."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vae_compat.errors import UsageError
from vae_compat.text import printable
from vae_compat.vocabulary import ExitCode

if TYPE_CHECKING:
    from vae_compat.reports.results import HookEntry, Results

MOST = 10
"""Annotations that GitHub keeps of one step."""
_PLACE = re.compile(r"(/[^;:\n]+\.py):(\d+)")
"""A place in a message: ``/some/hook.py:3``."""


class Place(NamedTuple):
    """Where a hook is."""

    file: Path
    line: int


def annotate(folder: Path, start: Path | None = None) -> int:
    """Print the failures of a run as workflow commands; files are told from ``start``.

    Raises ``UsageError`` where there is no run.
    """
    from vae_compat.reports.results import read

    root = Path.cwd() if start is None else start
    for line in commands(read(folder), root):
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    return ExitCode.HOLDS


def commands(results: Results, start: Path) -> Iterator[str]:
    """One line for each group of failures and each regression, `MOST` at most."""
    from vae_compat.reports.digest import groups, statement

    verdict = results.verdict
    if verdict.code is ExitCode.HARNESS:
        yield command("error", verdict.reason, title="vae-compat came to no verdict")
    places = {hook.name: _defined(hook) for hook in results.header.hooks}
    lines = []
    for group in groups(results.records):
        told = statement(group.first)
        if group.first.repeat:
            told += f"\nrepeat: {group.first.repeat}"
        at = _place_in(told, places.get(group.hook))
        title = f"{group.hook}: {group.title}"
        lines.append(command("error", told, title=title, **_relative(at, start)))
    lines += [command("error", told, title="worse than before") for told in results.regressions]
    yield from lines[: MOST - 1] if len(lines) > MOST else lines
    if len(lines) > MOST:
        left = len(lines) - MOST + 1
        yield command("error", f"and {left} more: see the summary", title="vae-compat")


def command(name: str, message: str, **properties: str) -> str:
    """A workflow command, escaped as GitHub's runner reads it (actions/toolkit, command.ts)."""
    message = _escaped(printable(message, 4000, lines=True))
    told = [f"{key}={_escaped(value, ',:')}" for key, value in properties.items()]
    return f"::{name} {','.join(sorted(told))}::{message}"


def _escaped(text: str, more: str = "") -> str:
    codes: Mapping[str, str] = {sign: f"%{ord(sign):02X}" for sign in "%\r\n" + more}
    return "".join(codes.get(sign, sign) for sign in text)


def _defined(hook: HookEntry) -> Place | None:
    """Where the class or function of a hook is defined, without loading it."""
    from vae_compat.front.selection.subjects import file_of, load_subject
    from vae_compat.subject.profile import profile_from_flags

    try:
        if hook.profile is not None:
            profile = load_subject(hook.profile)
        else:
            profile = profile_from_flags(hook.entry, hook.kind, hook.layout, modes=())
        file = file_of(profile)
        if file is None:
            return None
        return Place(file, _line_of(hook.entry.rpartition(":")[2], file))
    except (UsageError, OSError, ValueError):  # it has been moved or changed since
        return None


def _line_of(attribute: str, file: Path) -> int:
    """The line on which an attribute is defined; the first where it comes from elsewhere."""
    found = 1
    with suppress(SyntaxError):
        body = ast.parse(file.read_bytes()).body
        for part in attribute.split("."):
            nodes = [node for node in body if getattr(node, "name", None) == part]
            if not nodes:
                break
            found, body = int(getattr(nodes[-1], "lineno", 1)), getattr(nodes[-1], "body", [])
    return found


def _place_in(message: str, defined: Place | None) -> Place | None:
    """The place in the hook's file that a message names; where it is defined otherwise."""
    for file, line in _PLACE.findall(message):
        if defined is not None and Path(file) == defined.file:
            return Place(defined.file, int(line))
    return defined


def _relative(place: Place | None, start: Path) -> dict[str, str]:
    """The properties of a place below ``start``; GitHub knows no other files."""
    if place is None:
        return {}
    path = os.path.relpath(place.file, start.resolve())
    if path.startswith(os.pardir):
        return {}
    return {"file": Path(path).as_posix(), "line": str(place.line)}
