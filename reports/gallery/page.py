"""Makes one page of a run of the gallery's hooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vae_compat.errors import StoppedError
from vae_compat.judge import Record
from vae_compat.reports import digest
from vae_compat.reports.html.figures import Figure, Pictures
from vae_compat.reports.html.rendering import drawn
from vae_compat.reports.pictures.exhibit import read, worst_of
from vae_compat.reports.results import Results
from vae_compat.text import printable
from vae_compat.vocabulary import BAD

from .bugs import Bug


@dataclass(frozen=True)
class Plate:
    """A bug with what the harness shows of it."""

    bug: Bug
    figure: Figure
    findings: tuple[tuple[str, str], ...]
    """Checks that fail, and what each says."""


def plates(bugs: Iterable[Bug], results: Results, folder: Path) -> tuple[Plate, ...]:
    """What a run, in this folder, shows of every bug.

    Raises ``StoppedError`` for a bug of which it shows nothing: a gallery without it would pass
    for whole.
    """
    pictures = Pictures(folder)
    return tuple(_plate(bug, results.records, pictures) for bug in bugs)


def _plate(bug: Bug, records: Sequence[Record], pictures: Pictures) -> Plate:
    failed = [record for record in records if record.hook == bug.hook and record.status in BAD]
    cases = dict.fromkeys(record.case for record in failed)
    found = (read(bug.hook, case, pictures.folder) for case in cases)
    worst = worst_of(exhibit for exhibit in found if exhibit is not None)
    figure = None if worst is None else pictures.figure(worst)
    if worst is None or figure is None or not figure.pictures:
        raise StoppedError(f"the run shows no picture of {bug.hook}, which should fail")
    findings = tuple(
        (record.check, printable(digest.statement(record), 500))
        for record in failed
        if record.case == worst.case
    )
    return Plate(bug, figure, findings)


def to_html(shown: Sequence[Plate]) -> str:
    """The page, with everything that it needs in it; a browser runs no script of it."""
    return drawn("vae_compat.reports.gallery", "gallery.html.j2", plates=shown)
