"""A history: many runs in one folder, each in a folder of its own and with a line in a list.

``history.jsonl`` has one JSON object a line with one key that says what it is: ``night`` (a run
that ended) or ``accepted`` (a run that later ones are compared with although it did not hold). A
later line for the same run replaces the earlier one. Lines are appended under a lock; the last may
be torn where a process was killed, and is then as if it had not been written.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from vae_compat.errors import UsageError
from vae_compat.judge import Verdict

from .compare import apart
from .log import FILE_NAME as LOG
from .results import FILE_NAME as RESULTS
from .results import (
    Header,
    Results,
    check_regular,
    check_schema,
    jsonable,
    parsed_json,
    read,
    validated,
)

FILE_NAME = "history.jsonl"
LOCK = "history.lock"
RUNS = "runs"
PATIENCE = 60.0
"""Seconds to wait for another run that writes its line."""


@dataclass(frozen=True)
class Night:
    """A run that ended."""

    run: str
    """Name of its folder under ``runs``: when it began, and the commit of the hook."""
    header: Header
    verdict: Verdict
    against: str | None = None
    """The run that it was compared with."""
    regressions: int = 0
    accepted: bool = False
    """Whether later runs are compared with it by request, although it did not hold."""

    @property
    def stands(self) -> bool:
        """Whether later runs are compared with it."""
        return self.verdict.holds or self.accepted


def folder_of(history: Path, run: str) -> Path:
    """Where a run of a history is."""
    return history / RUNS / run


def fresh_folder(history: Path, header: Header) -> Path:
    """A folder that no other run has, named by the time and the hook's commit.

    Raises ``UsageError`` where it cannot be made.
    """
    began = datetime.datetime.fromisoformat(header.started).astimezone(datetime.UTC)
    stem = f"{began:%Y%m%dT%H%M%SZ}-{_code(header)}"
    try:
        (history / RUNS).mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            folder = history / RUNS / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise UsageError(
            f"cannot write to '{history}' ({error.strerror}): give another --history"
        ) from None
    raise UsageError(f"'{history}' has a thousand runs of one second: give another --history")


def _code(header: Header) -> str:
    """The first hook's commit, with ``+`` where its files differ, or else its hash."""
    for hook in header.hooks:
        if hook.commit or hook.sha256:
            return hook.commit or str(hook.sha256)[:12]
    return "unknown"


def read_history(history: Path) -> tuple[Night, ...]:
    """Its runs in the order in which they ended; none where there is no history yet.

    Raises ``UsageError`` for what is no history.
    """
    file = history / FILE_NAME
    if not file.exists():
        return ()
    check_regular(file, "give the folder of a history")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read '{file}' ({error.strerror}): check its rights") from None
    nights: dict[str, Night] = {}
    for number, line in enumerate(_whole(data).splitlines(), 1):
        _take(nights, line, number, file)
    return tuple(nights.values())


def _whole(data: bytes) -> bytes:
    """Everything but a torn last line."""
    return data[: data.rfind(b"\n") + 1]


def _take(nights: dict[str, Night], raw: bytes, number: int, file: Path) -> None:
    try:
        line = parsed_json(raw.decode("ascii"))
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict):
        raise UsageError(f"line {number} of '{file}' is no JSON object: take it out")
    if isinstance(told := line.get("night"), dict):
        check_schema(told.get("header"), file)
        night = validated(Night, told, file)
        known = nights.pop(night.run, None)  # a resumed run ended later
        nights[night.run] = replace(night, accepted=known is not None and known.accepted)
    elif isinstance(name := line.get("accepted"), str) and name in nights:
        nights[name] = replace(nights[name], accepted=True)


def append(history: Path, night: Night) -> None:
    """Record how a run ended. Raises ``UsageError`` where that is impossible."""
    told = asdict(night)
    del told["accepted"]
    _append(history, {"night": told})


def accept(history: Path, run: str) -> None:
    """Compare later runs with this one. Raises ``UsageError`` where it came to no verdict."""
    night = next((each for each in read_history(history) if each.run == run), None)
    if night is None:
        raise UsageError(f"'{history}' has no run '{run}' that ended: see vae-compat history")
    if night.verdict.code not in (0, 1):
        raise UsageError(f"the run '{run}' came to no verdict: choose one that ran to its end")
    _append(history, {"accepted": run})


def _append(history: Path, line: Mapping[str, Any]) -> None:
    data = json.dumps(jsonable(line), allow_nan=False).encode("ascii") + b"\n"
    try:
        history.mkdir(parents=True, exist_ok=True)
        with FileLock(history / LOCK, timeout=PATIENCE), _opened(history / FILE_NAME) as file:
            file.truncate(len(_whole(file.read())))  # an incomplete line is useless
            file.seek(0, os.SEEK_END)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot write to '{history}' ({reason}): check its rights") from None


def _opened(file: Path) -> Any:
    return os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


# Which run a run is held against


def baseline(history: Path, header: Header, but: str = "") -> Night | None:
    """The run to compare another with; ``but`` is excluded.

    It is the last that held on the same device, with the same torch if there is one."""
    known = alike(history, read_history(history), header)
    standing = [each for each in known if each.stands and each.run != but]
    same = [night for night in standing if not apart(night.header, header)]
    return next(reversed(same or standing), None)


def results_of(history: Path, night: Night) -> Results:
    """All that a run found. Raises ``UsageError`` where its folder is gone or broken."""
    return read(folder_of(history, night.run))


def alike(history: Path, nights: Iterable[Night], header: Header) -> list[Night]:
    """Those of the same hooks, selection and seed on the same device that came to a verdict.

    Those whose folder somebody has removed to save room are left out.
    """
    return [
        night
        for night in nights
        if night.verdict.code in (0, 1)
        and _subject(night.header) == _subject(header)
        and (folder_of(history, night.run) / RESULTS).is_file()
    ]


def _subject(header: Header) -> tuple[object, ...]:
    gpu = None if header.gpu is None else header.gpu.name
    return (
        header.device, gpu, header.selection, header.seed, [hook.name for hook in header.hooks],
    )  # fmt: skip


def groups(nights: Iterable[Night]) -> list[Night]:
    """The last run of each subject, which is what reports show."""
    last: dict[str, Night] = {}
    for night in nights:
        if night.verdict.code in (0, 1):
            last[repr(_subject(night.header))] = night
    return list(last.values())


def unfinished(history: Path, nights: Iterable[Night]) -> list[str]:
    """Runs that are under way, or were interrupted before they recorded their end."""
    known = {night.run for night in nights}
    found = sorted(log.parent.name for log in (history / RUNS).glob(f"*/{LOG}"))
    return [name for name in found if name not in known]
