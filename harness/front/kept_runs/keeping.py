"""Runs compared with others: ``--history``, ``vae-compat history`` and ``vae-compat compare``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vae_compat.errors import UsageError
from vae_compat.front.ending import complain
from vae_compat.vocabulary import ExitCode

if TYPE_CHECKING:
    from vae_compat.front.selection.options import Options
    from vae_compat.reports.results import Header, Results


@dataclass(frozen=True)
class Place:
    """Where a run is kept in a history, and the run that it is compared with."""

    history: Path
    run: str
    against: str | None
    last: int


def placed(options: Options, header: Header) -> tuple[Options, Place]:
    """The options of a run that is kept in a history: its folder, and the run to hold it against.

    Raises ``UsageError`` where it cannot be kept there.
    """
    from vae_compat.reports import history

    folder = options.history
    assert folder is not None
    if options.resume is None:
        room = history.fresh_folder(folder, header)
    else:
        room = options.resume
        if room.resolve().parent != (folder / history.RUNS).resolve():
            raise UsageError(
                f"--resume {room} is no run of --history {folder}: give a folder of"
                f" '{folder / history.RUNS}'"
            )
    name = room.resolve().name
    before = history.baseline(folder, header, name)
    against = None if before is None else history.folder_of(folder, before.run)
    place = Place(folder, name, None if before is None else before.run, options.last)
    return replace(options, out=room, against=against), place


def kept(place: Place, results: Results, code: int) -> int:
    """Record how a run of a history ended, and print what is new; returns the exit code."""
    from vae_compat.reports import history, nights

    night = history.Night(
        run=place.run,
        header=results.header,
        verdict=results.verdict,
        against=place.against,
        regressions=len(results.regressions),
    )
    try:
        history.append(place.history, night)
        told = nights.told(place.history, night, last=place.last)
        told.write(history.folder_of(place.history, night.run))
        _say(f"\n{told.text()}")
    except UsageError as error:
        complain(f"{error}; the run itself is in {place.history}")
        return ExitCode.HARNESS
    return code


def shown(folder: Path, *, accept: str | None, last: int) -> int:
    """List the runs of a history and what changed in the last of each kind."""
    from vae_compat.reports import history, nights

    if not (folder / history.FILE_NAME).exists() and not (folder / history.RUNS).is_dir():
        raise UsageError(f"'{folder}' is no history: give --history of a run")
    if accept is not None:
        history.accept(folder, accept)
    _say(nights.listing(folder))
    for night in history.groups(history.read_history(folder)):
        if (history.folder_of(folder, night.run) / "results.json").is_file():
            _say(f"\n{nights.told(folder, night, last=last).text()}")
    return ExitCode.HOLDS


def compared(before: Path, after: Path) -> int:
    """Print what became worse and what became better from one run to another.

    Exit code 0 where nothing became worse, 1 where anything did, 3 where the later run came to no
    verdict.
    """
    from vae_compat.reports.compare import compare
    from vae_compat.text import printable

    earlier, later = _read(before), _read(after)
    found = compare(earlier, later)
    lines = [f"note: {note}" for note in found.notes]
    lines += [f"worse: {each}" for each in found.worse]
    lines += [f"better: {each.message}" for each in found.mended]
    code = ExitCode.FAILS if found.worse else ExitCode.HOLDS
    ended = f"{found.compared} records compared: {len(found.regressions)} changes for the worse"
    if later.verdict.code is ExitCode.HARNESS:
        code = ExitCode.HARNESS
        ended += f"; {after} came to no verdict: {later.verdict.reason}"
    lines.append(f"{ended}, {len(found.mended)} for the better (exit code {int(code)})")
    _say("".join(f"{printable(line, 1000)}\n" for line in lines))
    return code


def _read(path: Path) -> Results:
    """What a run found, from its log where there is one. Raises ``UsageError``."""
    from vae_compat.reports.log import FILE_NAME, concluded, read_log
    from vae_compat.reports.results import read

    log = path / FILE_NAME if path.is_dir() else path
    if log.suffix == ".jsonl" and log.exists():
        return concluded(read_log(log), path)
    return read(path)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
