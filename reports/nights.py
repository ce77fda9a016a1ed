"""What a run in a history shows besides its own table: new failures, mended ones, and drift."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vae_compat.judge import Record
from vae_compat.text import printable

from . import digest, history
from .compare import COUNTERS, apart, compare, grown, number, unheard_of
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


@dataclass(frozen=True)
class Section:
    """Lines of one kind."""

    name: str
    lines: tuple[str, ...]

    def shown(self, most: int | None) -> Iterator[str]:
        """Its title and at most so many of its lines."""
        yield from ("", f"{self.name}: {len(self.lines) or 'nothing'}")
        yield from (f"- {line}" for line in self.lines[:most])
        if most is not None and len(self.lines) > most:
            yield f"- and {len(self.lines) - most} more: see {FILE_NAME} of the run"


@dataclass(frozen=True)
class Told:
    """What is told of a run of a history."""

    facts: tuple[str, ...]
    sections: tuple[Section, ...] = ()

    def text(self, most: int | None = SHOWN) -> str:
        """All of it, with at most so many lines of a kind; ``None`` for all."""
        lines = ["## Against the history", "", *(f"- {fact}" for fact in self.facts)]
        lines += [line for section in self.sections for line in section.shown(most)]
        return "\n".join(printable(line, 1000) for line in lines) + "\n"

    def write(self, folder: Path) -> Path:
        """Write all of it beside the results of the run, and return the path."""
        return write_text(folder / FILE_NAME, self.text(None))


def told(folder: Path, night: Night, *, last: int = LAST) -> Told:
    """What is new, mended and drifting in a run of a history; every run is read once."""
    facts = [
        f"run {night.run}: {_verdict(night)}",
        "held against nothing: no run before it held on this device"
        if night.against is None
        else f"held against {night.against}: {night.regressions} regressions",
    ]
    if night.verdict.code not in (0, 1):
        return Told(tuple(facts))  # an incomplete run shows nothing as new or mended
    nights = history.read_history(folder)
    alike = history.alike(folder, nights, night.header)
    counted = [each for each in alike if not apart(each.header, night.header)][-last:]
    earlier = _before(nights, alike, night)
    wanted = {each.run: each for each in (night, earlier, *counted) if each is not None}
    found = {run: history.results_of(folder, each) for run, each in wanted.items()}
    sections = []
    if earlier is not None:
        facts.append(f"the run before it was {earlier.run}: {_verdict(earlier)}")
        sections = _changed(found[earlier.run], found[night.run])
    if len(counted) > 1:
        runs = [found[each.run] for each in counted]
        moving = tuple(each.message for each in drifts(runs))
        sections.append(Section(f"drift over {len(runs)} runs", moving))
        if took := times(runs):
            sections.append(Section("time, for information", took))
    return Told(tuple(facts), tuple(sections))


def _changed(known: Results, results: Results) -> list[Section]:
    found = compare(known, results)
    return [
        Section("new", (*found.worse, *unheard_of(results, known))),
        Section("mended", tuple(each.message for each in found.mended)),
    ]


def _before(nights: Sequence[Night], alike: Sequence[Night], night: Night) -> Night | None:
    """The run before one of a history, which need not be its last."""
    names = [each.run for each in nights]
    later = set(names[names.index(night.run) :]) if night.run in names else set()
    return next((each for each in reversed(alike) if each.run not in later), None)


def _verdict(night: Night) -> str:
    word = "held" if night.verdict.holds else "did not hold"
    accepted = ", accepted all the same" if night.accepted and not night.verdict.holds else ""
    reason = f" ({night.verdict.reason})" if night.verdict.reason else ""
    return f"{word}{reason}{accepted}"


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
