"""What a run in a history shows besides its own table: new failures, mended ones, and drift."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vae_compat.judge import Record
from vae_compat.text import printable

from . import digest, history
from .compare import COUNTERS, Comparison, compare, grown, number, unheard_of
from .history import Night
from .results import Results, write_text
from .table import plain_table, rendered

FILE_NAME = "night.md"
LAST = 7
"""Runs over which drift is looked for."""
SHOWN = 12
"""Lines of a kind on the terminal; the file has all of them."""


@dataclass(frozen=True)
class Drift:
    """A counter that changed within several runs."""

    hook: str
    id: str
    """Record id."""
    what: str
    values: tuple[float | None, ...]
    """One a run, the oldest first; ``None`` where it was not measured."""

    @property
    def size(self) -> float:
        """The largest distance of any value from the oldest one, as a share of that."""
        known = [value for value in self.values if value is not None]
        if len(known) < len(self.values) or not known[0]:
            return float("inf")
        return max(abs(value / known[0] - 1) for value in known)

    @property
    def message(self) -> str:
        """``hook peak_vram[sd-...]: peak_bytes was 100, 100, is 101 (+1.0 %)``."""
        *earlier, now = self.values
        was = [value for at, value in enumerate(earlier) if at == 0 or value != earlier[at - 1]]
        told = ", ".join("not measured" if each is None else number(each, now) for each in was)
        first = self.values[0]
        if now is None:
            last = "not measured"
        else:
            last = number(now) if first is None else grown(first, now)
        return f"{self.hook} {self.id}: {self.what} was {told}, is {last}"


def drifts(runs: Sequence[Results]) -> tuple[Drift, ...]:
    """Every counter that changed within some runs, the largest change first.

    Counters are exact, so that a change of a single byte has a cause. Where a record is missing
    from a run, the others are compared.
    """
    found: dict[tuple[str, str, str], list[float | None]] = {}
    for results in runs:
        for record in results.records:
            for name in sorted(COUNTERS & record.metrics.keys()):
                value = record.metrics[name]
                measured = value if isinstance(value, int | float) else None
                found.setdefault((record.hook, record.id, name), []).append(measured)
    made = [Drift(*key, tuple(values)) for key, values in found.items() if len(set(values)) > 1]
    return tuple(sorted(made, key=lambda drift: (-drift.size, drift.id, drift.what)))


def times(runs: Sequence[Results]) -> tuple[str, ...]:
    """How long hooks took against untiled: the median of each run, and their spread."""
    series: dict[tuple[str, str], list[float]] = {}
    for results in runs:
        for place, ratio in _ratios(results.records).items():
            series.setdefault(place, []).append(ratio)
    return tuple(
        f"{hook} {where}: {values[-1]:.2f} x the time of untiled; over {len(values)} runs"
        f" {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        for (hook, where), values in series.items()
        if len(values) > 1
    )


def _ratios(records: Iterable[Record]) -> dict[tuple[str, str], float]:
    """The median ratio of each hook, family, direction and mode of one run."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in records:
        ratio, key = record.metrics.get(digest.TIME_RATIO), digest.key_of(record)
        if isinstance(ratio, int | float) and key is not None:
            found.setdefault((record.hook, " ".join(key)), []).append(float(ratio))
    return {place: statistics.median(values) for place, values in sorted(found.items())}


# In words


def told(folder: Path, night: Night, *, last: int = LAST, shown: int | None = SHOWN) -> str:
    """What is new, mended and drifting in a run of a history; ``shown`` lines of a kind."""
    lines = ["## Against the history", "", *_told(folder, night, last, shown)]
    return "\n".join(printable(line, 1000) for line in lines) + "\n"


def _told(folder: Path, night: Night, last: int, shown: int | None) -> Iterator[str]:
    results = history.results_of(folder, night)
    yield f"- run {night.run}: {_verdict(night)}"
    if night.against is None:
        yield "- held against nothing: no run before it held on this device"
    else:
        yield f"- held against {night.against}: {night.regressions} regressions"
    if night.verdict.code not in (0, 1):
        return  # an incomplete run shows nothing as new or mended
    earlier = _before(folder, night)
    if earlier is not None:
        known = history.results_of(folder, earlier)
        found = compare(known, results)
        yield f"- the run before it was {earlier.run}: {_verdict(earlier)}"
        yield from _section("new", _new(found, results, known), shown)
        yield from _section("mended", [each.message for each in found.mended], shown)
    runs = [each for _, each in history.series(folder, night.header, last)]
    if len(runs) > 1:
        moving = [each.message for each in drifts(runs)]
        yield from _section(f"drift over {len(runs)} runs", moving, shown)
        if took := times(runs):
            yield from _section("time, for information", took, shown)


def _new(found: Comparison, results: Results, known: Results) -> list[str]:
    return [*found.worse, *unheard_of(results, known)]


def _before(folder: Path, night: Night) -> Night | None:
    """The run before one of a history, which need not be its last."""
    nights = list(history.read_history(folder))
    names = [each.run for each in nights]
    later = set(names[names.index(night.run) :]) if night.run in names else set()
    alike = history.alike(folder, night.header)
    return next((each for each in reversed(alike) if each.run not in later), None)


def _verdict(night: Night) -> str:
    word = "held" if night.verdict.holds else "did not hold"
    accepted = ", accepted all the same" if night.accepted and not night.verdict.holds else ""
    reason = f" ({night.verdict.reason})" if night.verdict.reason else ""
    return f"{word}{reason}{accepted}"


def _section(name: str, lines: Sequence[str], shown: int | None) -> Iterator[str]:
    yield ""
    yield f"{name}: {len(lines) or 'nothing'}"
    yield from (f"- {line}" for line in lines[:shown])
    if shown is not None and len(lines) > shown:
        yield f"- and {len(lines) - shown} more: see {FILE_NAME} of the run"


def write_night(folder: Path, night: Night, *, last: int = LAST) -> Path:
    """Write all of it beside the run's results, and return the path."""
    text = told(folder, night, last=last, shown=None)
    return write_text(history.folder_of(folder, night.run) / FILE_NAME, text)


def listing(folder: Path) -> str:
    """A table of all runs, the oldest first, and the runs that did not end."""
    nights = history.read_history(folder)
    table = plain_table()
    for head in ("run", "device", "torch", "verdict", "held against"):
        table.add_column(head, overflow="fold")
    for night in nights:
        gpu = night.header.gpu
        device = night.header.device if gpu is None else gpu.name
        words = (night.run, device, night.header.torch, _verdict(night), night.against or "-")
        table.add_row(*(printable(word, 200) for word in words))
    parts = [rendered([table], width=140)] if nights else []
    parts += [
        f"{name}: goes on, or was cut off (vae-compat run --resume {folder / 'runs' / name}"
        f" --history {folder})\n"
        for name in history.unfinished(folder, nights)
    ]
    return "\n".join(parts)
