"""summary.md: the run as a page for a pull request or a nightly log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vae_compat.judge import Record

from . import digest
from .digest import Cell, Group, Key
from .escaping import shown
from .markdown import Markdown, block, cell, code, line, table
from .plot import write_plot
from .results import DEFAULT_FOLDER, Results, write_text
from .table import LEGEND, cost_notes
from .templating import environment
from .why import whys

FILE_NAME = "summary.md"
MOST_FAILURES = 40
"""Groups, and changes of a kind, that are shown: a job summary takes no more than a MiB."""


def write_summary(results: Results, folder: Path = DEFAULT_FOLDER) -> Path:
    """Write ``folder/summary.md``, with the plot that belongs to it, and return its path."""
    plot = write_plot(results.records, folder)
    return write_text(folder / FILE_NAME, to_markdown(results, None if plot is None else plot.name))


def to_markdown(results: Results, plot: str | None = None) -> str:
    """Why the gate does not hold, diagnosis, table, failures, the rest, and what was run.

    ``plot`` is the file name of the plot of memory over time, where there is one.
    """
    # Markdown: the filters below escape what could break it.
    templates = environment("vae_compat.reports", autoescape=False)
    templates.filters.update(
        block=block,
        cell=cell,
        code=code,
        grid=table,
        line=line,
        piped=lambda text: text.replace("|", "\\|"),
        statement=digest.statement,
    )
    results = shown(results)
    hooks = digest.hook_names(results.records)
    return templates.get_template("summary.md.j2").render(
        header=results.header,
        verdict=results.verdict,
        whys=whys(results.records),
        most=MOST_FAILURES,
        tables=[_table(name, results) for name in hooks],
        legend=LEGEND,
        cost_notes=cost_notes(results),
        counts={
            tier: digest.count_line(counted)
            for tier, counted in digest.counts(results.records).items()
        },
        diagnosis=results.diagnosis,
        against=results.against,
        changes={
            "regression": results.regressions,
            "new failure": results.new,
            "better": results.mended,
            "moved": results.drift,
        },
        notes=results.notes,
        failures=digest.groups(results.records),
        known=[_known(group) for group in digest.groups(results.records, {"xfailed"})],
        grades=[
            (name, family, record.grade, Markdown(code(record.case)), _numbers(record.metrics))
            for name in hooks
            for family, record in digest.worst_grades(_of(results, name))
        ],
        plot=plot,
        not_measured=digest.not_measured(results.records),
    )


def _of(results: Results, hook: str) -> list[Record]:
    return [record for record in results.records if record.hook == hook]


def _table(hook: str, results: Results) -> dict[str, Any]:
    made = digest.cells(_of(results, hook))
    columns = digest.columns(made)
    rows = [
        (family, *(_cell_words(made.get(Key(family, *column))) for column in columns))
        for family in dict.fromkeys(key.family for key in made)
    ]
    return {
        "hook": hook,
        "head": ["family", *(" ".join(column) for column in columns)],
        "rows": rows,
        "times": [(*key, timed.text) for key, timed in digest.times(_of(results, hook)).items()],
        **_phases(hook, results),
    }


def _phases(hook: str, results: Results) -> dict[str, Any]:
    made = digest.phases(_of(results, hook))
    directions = list(dict.fromkeys(direction for row in made.values() for direction in row))
    return {
        "phase_head": ["cache", *directions],
        "phases": [
            (family, *(row.get(direction, "") for direction in directions))
            for family, row in made.items()
        ],
    }


def _known(group: Group) -> tuple[object, ...]:
    where = f"{group.hook}: {group.family} {group.direction} ({group.count})"
    return (group.check, where, group.first.reason, group.first.link)


def _cell_words(cell: Cell | None) -> str:
    if cell is None:
        return ""
    mark = f"**{cell.mark}**" if cell.status not in {"passed", "skipped", "xfailed"} else cell.mark
    words = (Markdown(mark), cell.grade_text, cell.ratio_text)
    return Markdown(" ".join(word for word in words if word))


def _numbers(metrics: Mapping[str, float | int | str | None]) -> str:
    def words(value: float | int | str | None) -> str:
        if value is None:
            return "not measured"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{name} {words(value)}" for name, value in metrics.items())
