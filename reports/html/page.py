"""What the page says, as plain data: the template lays it out and decides nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vae_compat.contracts.caseid import parse_case_id
from vae_compat.contracts.cases import Direction, Mode
from vae_compat.families import FAMILIES
from vae_compat.judge import Record
from vae_compat.reports import digest
from vae_compat.reports.digest import Group, Key
from vae_compat.reports.escaping import shown
from vae_compat.reports.pictures.exhibit import Exhibit, read, worst_of
from vae_compat.reports.plot import courses
from vae_compat.reports.results import Results
from vae_compat.reports.table import LEGEND, cost_notes
from vae_compat.reports.why import Why, whys
from vae_compat.text import printable
from vae_compat.vocabulary import BAD

from .charts import Bar, Lines, bars, memory_lines
from .counted import CountRow, counted
from .figures import Figure, Pictures

MOST_LINES, MOST_ROWS, MOST_GROUPS = 1500, 2000, 150
"""Cases listed in all groups together, rows of the table of cases, and groups."""
MOST_CHANGES = 200
"""Lines of each kind of change."""
MOST_MESSAGE, MOST_LINE = 2000, 160
"""Characters of the message of a group, and of one of its further cases."""
COSTS = {
    "vram": "VRAM",
    "flops": "FLOPs",
    "launches": "launches",
    "estimated": "estimated time",
    "time": "time",
}
"""What a hook costs, each as a multiple of untiled."""


@dataclass(frozen=True)
class CaseLine:
    """A case of a group."""

    case: str
    message: str
    repeat: str


@dataclass(frozen=True)
class GroupView:
    """A group of failures."""

    id: str
    group: Group
    mark: str
    message: str
    lines: tuple[CaseLine, ...]
    left_out: int
    figure: Figure | None
    elsewhere: str | None
    """Id of the group that shows the same case."""

    @property
    def order(self) -> float:
        """Key for sorting: what is farthest off comes first."""
        return min(max(self.group.psnr, -1e6), 1e6)


@dataclass(frozen=True)
class CellView:
    """A cell of the table of families and modes."""

    status: str
    """A class of the style sheet: ``good``, ``bad``, ``known`` or ``idle``."""
    mark: str
    grade: str
    ratio: str


@dataclass(frozen=True)
class CostRow:
    """What a family, direction and mode cost, or all families in a direction and mode."""

    place: str
    bars: tuple[Bar | None, ...]


@dataclass(frozen=True)
class HookView:
    """A hook and what came of it."""

    name: str
    why: Why
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[CellView | None, ...]], ...]
    phases: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    costs: tuple[CostRow, ...]
    """The highest of all families, for every direction and mode."""
    family_costs: tuple[CostRow, ...]
    cost_heads: tuple[str, ...]
    counted: tuple[CountRow, ...]


@dataclass(frozen=True)
class Row:
    """A case in the table of all cases."""

    hook: str
    case: str
    family: str
    direction: str
    status: str
    mark: str
    grade: str
    psnr: float | None
    vram: float | None
    flops: float | None
    repeat: str


@dataclass(frozen=True)
class Changes:
    """What one kind of change since the earlier run consists of."""

    name: str
    status: str
    """A class of the style sheet."""
    lines: tuple[str, ...]
    left_out: int


@dataclass(frozen=True)
class Page:
    """The whole page."""

    results: Results
    hooks: tuple[HookView, ...]
    changes: tuple[Changes, ...]
    groups: tuple[GroupView, ...]
    known: tuple[GroupView, ...]
    examples: tuple[tuple[str, Figure], ...]
    """Hook and family, and what passed there with the least to spare."""
    memory: tuple[tuple[str, Lines], ...]
    rows: tuple[Row, ...]
    rows_left_out: int
    groups_left_out: int
    pictures_left_out: int
    counts: tuple[tuple[str, str], ...]
    legend: str
    notes: tuple[str, ...]
    missing: tuple[tuple[str, int], ...]
    unjudged: tuple[str, ...]
    """How many checks had nothing to judge, and why."""
    families: tuple[str, ...]
    statuses: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


def page_of(results: Results, folder: Path) -> Page:
    """The page of a run in this folder, where its pictures are."""
    pictures = Pictures(folder)
    raw = results.records  # hooks and cases as the pictures know them
    results = shown(results)
    groups = digest.groups(raw)
    failing = _views(groups[:MOST_GROUPS], pictures, "failure")
    known = _views(digest.groups(raw, {"xfailed"})[:MOST_GROUPS], pictures, "known")
    examples = tuple(_examples(raw, pictures))
    rows = list(_rows(results.records))
    told = whys(results.records)
    return Page(
        results=results,
        hooks=tuple(_hook(why, results.records) for why in told),
        changes=tuple(_changes(results)),
        groups=failing,
        known=known,
        examples=examples,
        memory=tuple((course.hook, memory_lines(course)) for course in courses(results.records)),
        rows=tuple(rows[:MOST_ROWS]),
        rows_left_out=max(len(rows) - MOST_ROWS, 0),
        groups_left_out=max(len(groups) - MOST_GROUPS, 0),
        pictures_left_out=pictures.left_out,
        counts=tuple(
            (tier, digest.count_line(counted))
            for tier, counted in digest.counts(results.records).items()
        ),
        legend=LEGEND,
        notes=tuple(cost_notes(results)),
        missing=tuple(digest.not_measured(results.records).items()),
        unjudged=tuple(digest.unjudged(results.records)),
        families=tuple(dict.fromkeys(row.family for row in rows)),
        statuses=tuple(dict.fromkeys(row.status for row in rows)),
        facts=tuple(_facts(results)),
    )


def _changes(results: Results) -> Iterator[Changes]:
    kinds = {
        "worse": ("bad", results.regressions),
        "new failures": ("bad", results.new),
        "better": ("good", results.mended),
        "moved within what is tolerated": ("idle", results.drift),
    }
    for name, (status, lines) in kinds.items():
        yield Changes(name, status, lines[:MOST_CHANGES], max(len(lines) - MOST_CHANGES, 0))


# Groups -----------------------------------------------------------------------------------------


def _views(groups: Sequence[Group], pictures: Pictures, kind: str) -> tuple[GroupView, ...]:
    share = max(MOST_LINES // max(len(groups), 1), 5)
    return tuple(
        _view(group, pictures, f"{kind}-{number}", share) for number, group in enumerate(groups, 1)
    )


def _view(group: Group, pictures: Pictures, name: str, most: int) -> GroupView:
    figure, elsewhere = None, None
    exhibit = pictures.worst(group)
    if exhibit is not None:
        key = (exhibit.hook, exhibit.case)
        elsewhere = pictures.shown.get(key)
        if elsewhere is None:
            figure = pictures.figure(exhibit)
            if figure is not None:
                pictures.shown[key] = name
    told = shown(group)
    lines = tuple(
        CaseLine(
            case=printable(record.case, 300),
            message=printable(digest.statement(record), MOST_LINE),
            repeat=printable(record.repeat or "", 1000),
        )
        for record in told.records[:most]
    )
    return GroupView(
        id=name,
        group=told,
        mark=digest.MARKS.get(group.status, printable(group.status.upper(), 40)),
        message=printable(digest.statement(told.first), MOST_MESSAGE, lines=True),
        lines=lines,
        left_out=group.count - len(lines),
        figure=figure,
        elsewhere=elsewhere,
    )


def _examples(records: Iterable[Record], pictures: Pictures) -> Iterator[tuple[str, Figure]]:
    """What passed with the least to spare, for each hook and family, where it is not shown yet."""
    found: dict[tuple[str, str], list[Exhibit]] = {}
    for record in records:
        key = digest.key_of(record)
        if record.check != "parity" or record.status != "passed" or key is None:
            continue
        if (record.hook, record.case) in pictures.shown:
            continue
        exhibit = read(record.hook, record.case, pictures.folder)
        if exhibit is not None:
            found.setdefault((record.hook, key.family), []).append(exhibit)
    for (hook, family), exhibits in found.items():
        worst = worst_of(exhibits)
        figure = None if worst is None else pictures.figure(worst)
        if figure is not None:
            yield printable(f"{hook}: {family}", 200), figure


# Hooks ------------------------------------------------------------------------------------------


def _hook(why: Why, records: Sequence[Record]) -> HookView:
    own = [record for record in records if record.hook == why.hook]
    made = digest.cells(own)
    columns = digest.columns(made)
    rows = tuple(
        (family, tuple(_cell(made.get(Key(family, *column))) for column in columns))
        for family in dict.fromkeys(key.family for key in made)
    )
    heads, costs, family_costs = _costs(own)
    phases = tuple((family, tuple(row.items())) for family, row in digest.phases(own).items())
    return HookView(
        *(why.hook, why, tuple(columns), rows, phases, costs, family_costs, heads), counted(own)
    )


def _cell(cell: digest.Cell | None) -> CellView | None:
    if cell is None:
        return None
    status = {"passed": "good", "skipped": "idle", "xfailed": "known"}.get(cell.status, "bad")
    if cell.mark == "-":
        status = "idle"
    return CellView(status, cell.mark, cell.grade_text, cell.ratio_text)


def _costs(
    records: Iterable[Record],
) -> tuple[tuple[str, ...], tuple[CostRow, ...], tuple[CostRow, ...]]:
    """What is told of costs, and the highest of each in cases that have to tile.

    For every direction and mode, and for every family in them.
    """
    found: dict[Key, dict[str, float]] = {}
    for record in records:
        case, key = parse_case_id(record.case), digest.key_of(record)
        if case is None or key is None or case.scale == "probe":
            continue
        if case.part and record.check != digest.ESTIMATE:
            continue
        if not digest.must_tile(case):
            continue
        for name, value in _cost_of(record).items():
            for place in (key, key._replace(family="")):
                told = found.setdefault(place, {})
                told[name] = max(value, told.get(name, 0.0))
    keys = sorted(found, key=_place)
    heads = tuple(name for name in COSTS if any(name in told for told in found.values()))
    made: dict[str, dict[Key, Bar]] = {}
    for name in heads:
        some = [(key, found[key][name]) for key in keys if name in found[key]]
        drawn = bars([(" ".join(key).strip(), value) for key, value in some])
        made[name] = {key: bar for (key, _), bar in zip(some, drawn, strict=True)}
    rows = {
        key: CostRow(" ".join(key).strip(), tuple(made[name].get(key) for name in heads))
        for key in keys
    }
    return (
        tuple(COSTS[name] for name in heads),
        tuple(row for key, row in rows.items() if not key.family),
        tuple(row for key, row in rows.items() if key.family),
    )


def _cost_of(record: Record) -> dict[str, float]:
    """What a record says of costs, each as a multiple of untiled."""

    def number(name: str) -> float | None:
        value = record.metrics.get(name)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    ours, untiled = number("kernels"), number("untiled_kernels")
    told = {
        "vram": number(digest.VRAM_RATIO),
        "flops": number("flops_ratio"),
        "launches": ours / untiled if ours is not None and untiled else None,
        "estimated": number("estimated_time_ratio"),
        "time": number(digest.TIME_RATIO),
    }
    return {name: value for name, value in told.items() if value is not None}


def _place(key: Key) -> tuple[int, int, int, Key]:
    rank = digest.rank
    return rank(key.family, FAMILIES), rank(key.direction, Direction), rank(key.mode, Mode), key


# All cases --------------------------------------------------------------------------------------


def _rows(records: Sequence[Record]) -> Iterator[Row]:
    """A row for each hook and case, what failed first."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        found.setdefault((record.hook, record.case), []).append(record)
    ranked = sorted(found.values(), key=lambda some: min(digest.severity(r.status) for r in some))
    for some in ranked:
        yield _row(some)


def _row(records: Sequence[Record]) -> Row:
    first = min(records, key=lambda record: digest.severity(record.status))
    key = digest.key_of(first) or Key("", "", "")
    numbers: dict[str, float] = {}
    for record in records:
        for name in ("psnr", "vram_ratio", "flops_ratio"):
            value = record.metrics.get(name)
            if isinstance(value, int | float) and not math.isnan(value):
                numbers.setdefault(name, float(value))
    status = "bad" if first.status in BAD or first.status not in digest.MARKS else "good"
    return Row(
        hook=printable(first.hook, 100),
        case=printable(first.case, 300),
        family=key.family,
        direction=key.direction,
        status={"xfailed": "known", "skipped": "known"}.get(first.status, status),
        mark=digest.MARKS.get(first.status, printable(first.status.upper(), 40)),
        grade=next((record.grade for record in records if record.grade), None) or "",
        psnr=numbers.get("psnr"),
        vram=numbers.get("vram_ratio"),
        flops=numbers.get("flops_ratio"),
        repeat=printable(first.repeat or "", 1000),
    )


def _facts(results: Results) -> Iterator[tuple[str, str]]:
    """Where, with what and on what the run ran."""
    header = results.header
    for hook in header.hooks:
        words = [hook.entry, f"kind {hook.kind}", f"layout {hook.layout}"]
        words += [f"profile {hook.profile}"] if hook.profile else []
        words += [f"commit {hook.commit}"] if hook.commit else []
        words += [f"SHA-256 {hook.sha256[:12]}"] if hook.sha256 else []
        yield f"hook {printable(hook.name, 100)}", printable(", ".join(words), 2000)
    yield "device", header.device
    if header.gpu is not None:
        gpu = header.gpu
        yield "GPU", f"{gpu.name}, driver {gpu.driver}, CUDA {gpu.cuda}, cuDNN {gpu.cudnn}"
    yield "selection", f"{header.selection}, seed {header.seed}"
    own = f" ({header.commit})" if header.commit else ""
    yield (
        "versions",
        f"vae-compat {header.version}{own}, torch {header.torch}, diffusers {header.diffusers}, "
        f"Python {header.python}",
    )
    yield from (("not run", sentence) for sentence in header.left_out)
    yield "machine", f"{header.platform}, {header.cpu}"
    yield "time", f"{header.started} to {header.finished}"
    yield "command", printable(header.command, 2000)
