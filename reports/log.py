"""records.jsonl: the records of a run, written line by line while it goes on.

Each line is a JSON object with one key that says what it is: ``header`` (the first line),
``record``, ``resumed`` (the header of a run that went on with this log) or ``end``. The last line
may be torn where the process was killed; a record that comes again replaces the earlier one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vae_compat.errors import UsageError
from vae_compat.judge import Record, Verdict, diagnose, gate, tell
from vae_compat.text import printable
from vae_compat.vocabulary import ExitCode

from .results import (
    Header,
    Results,
    check_regular,
    check_schema,
    jsonable,
    now,
    parsed_json,
    restored_record,
    validated,
)

FILE_NAME = "records.jsonl"
Key = tuple[str, str, str]
"""Hook, case id and check."""


class LogError(Exception):
    """The log cannot be written: no room left, no right, or another run is writing to it."""


@dataclass(frozen=True)
class Entry:
    """A record, and the hook it is about."""

    record: Record
    harness: bool = False
    """Whether it says that the harness failed, so that nothing is known of the hook."""

    @property
    def key(self) -> Key:
        """What it is about."""
        return (self.record.hook, self.record.case, self.record.check)


@dataclass(frozen=True)
class End:
    """How a run ended that came to its end."""

    finished: str
    stopped: str | None = None
    """Why it did not run everything; ``None`` where it did."""
    by_failure: bool = False
    """Whether it was told to stop at the first failure, and found one."""


@dataclass(frozen=True)
class Log:
    """The content of a log."""

    header: Header
    selected: int
    """Records that the whole run is to have."""
    entries: Mapping[Key, Entry] = field(default_factory=dict)
    end: End | None = None
    """``None`` where the last run that wrote to it was cut off."""
    size: int = 0
    """Bytes that can be read; what follows is torn."""


class Writer:
    """Appends to a log; every line is with the operating system before ``append`` returns.

    A hook has the rights to write to the log too. Where it is not as it was written, it is written
    again, at the end at the latest.
    """

    def __init__(self, folder: Path, header: Header, selected: int, resumed: Log | None) -> None:
        """Open a fresh log, or go on with one. Raises ``LogError``."""
        self.file = folder / FILE_NAME
        self._descriptor = -1
        self._text = bytearray()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open()
            if resumed is not None:
                self._text += os.pread(self._descriptor, resumed.size, 0)
            self._cut()
            kind = "header" if resumed is None else "resumed"
            self._write({kind: asdict(header), "selected": selected})
        except OSError as error:
            self.close()
            raise self._failed(error) from None
        except LogError:
            self.close()
            raise

    def append(self, entry: Entry) -> None:
        """Write a record down. Raises ``LogError``."""
        line: dict[str, Any] = {"record": asdict(entry.record)}
        self._write(line | ({"harness": True} if entry.harness else {}))

    def finish(self, end: End) -> None:
        """Say that the run came to its end. Raises ``LogError``."""
        self._write({"end": asdict(end)})
        if not self._stands():
            self.close()
            try:
                self.file.unlink(missing_ok=True)
                self._open()
                self._put(self._text)
            except OSError as error:
                raise self._failed(error) from None

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)  # a FIFO must not block
        self._descriptor = os.open(self.file, flags, 0o666)
        _lock(self._descriptor, self.file)

    def _write(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(jsonable(line), allow_nan=False).encode("ascii") + b"\n"
        try:
            if os.fstat(self._descriptor).st_size != len(self._text):
                self._truncate(0)
                self._put(self._text)
            self._put(data)
        except OSError as error:
            self._cut()  # an incomplete line is useless
            raise self._failed(error) from None
        self._text += data

    def _put(self, data: bytes | bytearray) -> None:
        written = 0
        while written < len(data):
            written += os.write(self._descriptor, data[written:])

    def _stands(self) -> bool:
        """Whether the file that is there is this one, as it was written."""
        try:
            here = os.path.samestat(os.lstat(self.file), os.fstat(self._descriptor))
            return here and self.file.read_bytes() == self._text
        except OSError:
            return False

    def _cut(self) -> None:
        """Remove what follows the last whole line."""
        try:
            # Never longer than it is: where writing it again failed, a hole would follow.
            self._truncate(min(os.fstat(self._descriptor).st_size, len(self._text)))
        except OSError as error:
            raise self._failed(error) from None

    def _truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)

    def _failed(self, error: OSError) -> LogError:
        return LogError(f"cannot write '{self.file}' ({error.strerror})")


def write_log(log: Log, folder: Path) -> None:
    """Write a log as a run writes it. Raises ``UsageError`` where that is impossible."""
    try:
        writer = Writer(folder, log.header, log.selected, None)
        try:
            for key in sorted(log.entries):
                writer.append(log.entries[key])
            if log.end is not None:
                writer.finish(log.end)
        finally:
            writer.close()
    except LogError as error:
        raise UsageError(f"{error}: give another --out") from None


def _lock(descriptor: int, file: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise LogError(f"another run is writing '{file}'") from None


def read_log(folder: Path) -> Log:
    """Read the log in a folder. Raises ``UsageError`` where there is none, or it is no log."""
    file = folder / FILE_NAME if folder.is_dir() else folder
    check_regular(file, f"give the folder of a run, which has a {FILE_NAME}")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read '{file}' ({error.strerror}): give the folder of a run"
        ) from None
    lines = list(_lines(data, file))
    if not lines or "header" not in lines[0][0]:
        raise UsageError(f"'{file}' does not begin with the header of a run: give another folder")
    first = lines[0][0]
    check_schema(first["header"], file)
    header = validated(Header, first["header"], file)
    selected, end = _count(first, file), None
    entries: dict[Key, Entry] = {}
    for line, _ in lines[1:]:
        if "record" in line:
            record = validated(Record, restored_record(line["record"]), file)
            entry = Entry(record, harness=bool(line.get("harness")))
            entries[entry.key] = entry
        elif "end" in line:
            end = validated(End, line["end"], file)
        elif "resumed" in line:
            selected, end = _count(line, file), None
    return Log(header, selected, entries, end, size=lines[-1][1])


def _lines(data: bytes, file: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Every whole line, and where it ends. Raises ``UsageError`` for one that is no JSON."""
    place = 0
    for number, raw in enumerate(data.splitlines(keepends=True), 1):
        place += len(raw)
        if not raw.endswith(b"\n"):
            return  # torn: the process was killed while it wrote
        try:
            line = parsed_json(raw.decode("ascii"))
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict):
            if place == len(data):
                return
            raise UsageError(f"line {number} of '{file}' is no JSON object: give another folder")
        yield line, place


def _count(line: Mapping[str, Any], file: Path) -> int:
    selected = line.get("selected")
    if not isinstance(selected, int):
        raise UsageError(f"a header in '{file}' lacks 'selected': make it anew with vae-compat run")
    return selected


def concluded(log: Log, folder: Path) -> Results:
    """The results that a log gives: all records, and a verdict.

    Where records are missing there is no verdict on the hook (exit code 3), unless the run was
    told to stop at the first failure.
    """
    records = tuple(log.entries[key].record for key in sorted(log.entries))
    whole = log.header.shard is None  # the probes that tell why may be in another shard
    return Results(
        header=replace(log.header, finished=log.end.finished if log.end else now()),
        records=records,
        verdict=_verdict(log, records, folder),
        diagnosis=tell(diagnose(records)) if whole else (),
    )


def _verdict(log: Log, records: tuple[Record, ...], folder: Path) -> Verdict:
    reached = f"after {len(records)} of {log.selected} records"
    on = f"go on with --resume {folder}"
    if log.end is not None and log.end.by_failure and any(map(_is_bad, log.entries.values())):
        found = gate(records, shard=log.header.shard)
        return Verdict(found.code, f"{found.reason}; stopped at the first failure, {reached}")
    if log.end is None or log.end.stopped is not None:
        why = log.end.stopped if log.end and log.end.stopped else "cut off"
        return Verdict(ExitCode.HARNESS, f"{why} {reached}; {on}")
    failures = [entry.record for entry in log.entries.values() if entry.harness]
    if failures:
        first = printable(failures[0].message, 200)
        more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
        return Verdict(
            ExitCode.HARNESS, f"the harness failed in {failures[0].id}{more}: {first}; {on}"
        )
    if len(records) < log.selected:
        return Verdict(ExitCode.HARNESS, f"ended {reached}; {on}")
    return gate(records, shard=log.header.shard)


def _is_bad(entry: Entry) -> bool:
    return not entry.harness and entry.record.status not in ("passed", "xfailed", "skipped")
