"""The terminal report: what a person reads in ten seconds, with or without colour."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence

from rich.box import Box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vae_compat.judge import Record
from vae_compat.text import printable

from . import digest
from .digest import Cell, Key
from .escaping import shown
from .results import Results

SHOWN_FAILURES = 12

# Plain ASCII: it survives CI logs and consoles of any encoding.
_BOX = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
_STYLES = {
    "error": "bold red",
    "failed": "bold red",
    "xpassed": "bold red",
    "xfailed": "yellow",
    "passed": "green",
    "skipped": "dim",
}
LEGEND = (
    "cell: outcome, worst grade, highest VRAM as a fraction of untiled (n/m: not measured); "
    "known: fails as listed in known_failures; -: not claimed; blank: not run; cache: worst cache "
    "behaviour seen on clips, and their highest VRAM"
)

VRAM_LEGEND = (
    "VRAM on cuda: of cases at real scale from 384 x 640 pixels on alone; in smaller ones cuDNN's "
    "workspaces are larger than the planes (blank: not judged); x time: of untiled in the same "
    "process, median (least to most), for information"
)


def to_text(results: Results, *, width: int = 80, colour: bool = False) -> str:
    """The whole terminal report as text no wider than ``width`` columns."""
    return rendered(renderables(shown(results), width), width=width, colour=colour)


def rendered(parts: Iterable[RenderableType], *, width: int = 80, colour: bool = False) -> str:
    """Anything that rich can show as text no wider than ``width`` columns."""
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text) and bool(part.no_wrap))
    lines = buffer.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def renderables(results: Results, width: int) -> Iterable[RenderableType]:
    """The parts of the report, top to bottom, for any rich console."""
    names = digest.hook_names(results.records)
    for name in names:
        yield Text(f"hook {name}", style="bold")
        own = [record for record in results.records if record.hook == name]
        yield from hook_tables(own, width)
        yield Text()
        yield from phase_table(own)
        yield from time_table(own)
    if names:
        yield Text(LEGEND, style="dim")
        for line in cost_notes(results):
            yield Text(line, style="dim")
        yield Text()
    for line in results.diagnosis:
        yield Text(f"diagnosis: {printable(line)}")
    if results.diagnosis:
        yield Text()
    yield from _failures(results, width)
    for line in results.notes:  # what else differs comes before what became worse
        yield Text(f"note: {printable(line)}")
    for line in results.regressions[:SHOWN_FAILURES]:
        yield Text(f"regression: {printable(line)}", style=_STYLES["failed"])
    hidden = len(results.regressions) - SHOWN_FAILURES
    if hidden > 0:
        yield Text(f"and {hidden} more regressions: see index.html")
    if results.against:
        changes = {"better": results.mended, "new failures": results.new, "moved": results.drift}
        words = ", ".join(f"{len(lines)} {name}" for name, lines in changes.items())
        yield Text(f"against {printable(results.against)}: {words}")
    for line in results.header.left_out:
        yield Text(f"not run: {printable(line)}", style=_STYLES["xfailed"])
    for tier, counted in digest.counts(results.records).items():
        yield Text(f"{tier}: {digest.count_line(counted)}")
    missing = digest.not_measured(results.records)
    if missing:
        told = [f"{name} ({count} record{'s' * (count > 1)})" for name, count in missing.items()]
        yield Text(f"not measured: {', '.join(told)}")
    yield gate_line(results)


def hook_tables(records: Sequence[Record], width: int) -> Sequence[RenderableType]:
    """Families down, directions and modes across, in the widest arrangement that fits.

    One table with one line a cell, else one table with two lines a cell, else a table for each
    direction.
    """
    made = digest.cells(records)
    if not made:
        return [Text("no case ran", style=_STYLES["error"])]
    for tall in (False, True):
        table = _table(made, tall)
        if _fits(table, width):
            return [table]
    directions = dict.fromkeys(key.direction for key in made)
    parts = [{key: made[key] for key in made if key.direction == name} for name in directions]
    for tall in (False, True):
        tables = [_table(part, tall) for part in parts]
        if all(_fits(table, width) for table in tables):
            break
    return [part for table in tables for part in (table, Text())][:-1]


def phase_table(records: Sequence[Record]) -> Sequence[RenderableType]:
    """What the hook does with the caches of each family that has some; nothing without clips."""
    made = digest.phases(records)
    if not made:
        return []
    table = plain_table()
    directions = dict.fromkeys(direction for row in made.values() for direction in row)
    for head in ("cache", *directions):
        table.add_column(head, no_wrap=True)
    for family, row in made.items():
        table.add_row(family, *(row.get(direction, "") for direction in directions))
    return [table, Text()]


def time_table(records: Sequence[Record]) -> Sequence[RenderableType]:
    """Times of the hook as a multiple of untiled; nothing where nothing was timed."""
    made = digest.times(records)
    if not made:
        return []
    table = plain_table()
    columns = digest.columns(made)
    for head in ("x time", *("\n".join(column) for column in columns)):
        table.add_column(head, no_wrap=True)
    for family in dict.fromkeys(key.family for key in made):
        row = [made.get(Key(family, *column)) for column in columns]
        table.add_row(family, *("" if cell is None else cell.text for cell in row))
    return [table, Text()]


def cost_notes(results: Results) -> Sequence[str]:
    """Estimated times; or, on a real GPU, by which cases and for which families VRAM was judged."""
    if results.header.device != "cuda":
        return digest.estimates(results.records)
    missing = digest.without_vram(results.records)
    lines = [VRAM_LEGEND]
    if missing and results.header.shard is None:
        lines.append(f"VRAM was not judged of: {', '.join(missing)}")
    return lines


def gate_line(results: Results) -> Text:
    """``gate holds`` or ``gate does not hold: ...``, with the exit code."""
    verdict = results.verdict
    word = "gate holds" if verdict.holds else "gate does not hold"
    reason = f": {printable(verdict.reason)}" if verdict.reason else ""
    style = _STYLES["passed" if verdict.holds else "failed"]
    return Text(f"{word}{reason} (exit code {int(verdict.code)})", style=style)


def plain_table() -> Table:
    """A table of plain ASCII with as little around its cells as possible."""
    return Table(box=_BOX, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))


def _table(made: dict[Key, Cell], tall: bool) -> Table:
    table = plain_table()
    columns = digest.columns(made)
    table.add_column("family", no_wrap=True, vertical="top")
    for direction, mode in columns:
        table.add_column(f"{direction}\n{mode}", no_wrap=True)
    for family in dict.fromkeys(key.family for key in made):
        row = [made.get(Key(family, direction, mode)) for direction, mode in columns]
        table.add_row(family, *(_cell_text(cell, tall) for cell in row))
    return table


def _cell_text(cell: Cell | None, tall: bool) -> Text:
    if cell is None:
        return Text("")
    first, second = cell.mark, f"{cell.grade_text} {cell.ratio_text}".strip()
    if tall:
        first, second = f"{cell.mark} {cell.ratio_text}".strip(), cell.grade_text
    style = _STYLES.get(cell.status, _STYLES["error"])
    return Text(f"{first}\n{second}" if tall else f"{first} {second}".strip(), style=style)


def _fits(table: Table, width: int) -> bool:
    unlimited = Console(width=10_000, file=io.StringIO())
    return Measurement.get(unlimited, unlimited.options, table).maximum <= width


def _failures(results: Results, width: int) -> Iterable[RenderableType]:
    found = digest.groups(results.records)
    for group in found[:SHOWN_FAILURES]:
        hook = f"[{group.hook}] " if len(digest.hook_names(results.records)) > 1 else ""
        yield Text(f"{hook}{group.title}", style=_STYLES.get(group.status, _STYLES["error"]))
        message = printable(digest.statement(group.first))
        yield Padding(Text(textwrap.shorten(message, 4 * width, placeholder=" ...")), (0, 0, 0, 2))
        if group.first.repeat:
            # Not wrapped, because it is meant to be copied.
            yield Text(f"  {group.first.repeat}", style="dim", no_wrap=True)
    left = len(found) - SHOWN_FAILURES
    if left > 0:
        yield Text(f"and {left} more groups of failures: see index.html")
    known = digest.known(results.records)
    several = len(digest.hook_names(results.records)) > 1
    for each in known[:SHOWN_FAILURES]:
        hook = f"[{each.hook}] " if several else ""
        yield Text(f"{hook}{printable(each.line)}", style=_STYLES["xfailed"])
    if len(known) > SHOWN_FAILURES:
        left = len(known) - SHOWN_FAILURES
        yield Text(f"and {left} more kinds of known failures: see summary.md")
    for line in digest.unjudged(results.records):
        yield Text(line)
    if found:
        yield Text("code, thresholds and their reasons:", style="dim")
        yield Text(f"  vae-compat explain '{found[0].first.id}'", style="dim", no_wrap=True)
    if found or known:
        yield Text()
