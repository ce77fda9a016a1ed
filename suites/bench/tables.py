"""Tables of measured figures, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from vae_compat.reports.markdown import table
from vae_compat.suites.bench.measuring import Figures
from vae_compat.suites.bench.rows import Row

GIVEN = ("peak over weights", "FLOPs", "CPU time", "host to device", "error / floor", "grade")
ON_GPU = (
    "decode",
    "max_vram",
    "time (at most)",
    "peak (at most)",
    "launches",
    "bytes",
    "FLOPs",
    "pinned copies",
)
NOT = "not measured"


def words(figures: Figures) -> list[str]:
    """Cells of one line, in the order of ``GIVEN``."""
    numbers = (figures.peak, figures.flops, figures.time)
    ratios = [NOT if value is None else f"{value:.3f}" for value in numbers]
    error = NOT if figures.error is None else f"{figures.error:.3g}"
    return [*ratios, f"{figures.moved / 2**20:.1f} MiB", error, figures.grade or NOT]


def bounds(row: Row) -> list[str]:
    """Cells of the line that says what a row has to keep."""
    moved = row.remark or (f"<= {row.moved:g} MiB" if row.moved is not None else "")
    ratios = [f"<= {value:g}" for value in (row.peak, row.flops, row.time)]
    return [*ratios, moved, "<= 2" if row.truth else "", "exact" if row.truth else ""]


@dataclass
class Tables:
    """What the tests of a run have found."""

    rows: list[list[str]] = field(default_factory=list)
    beside: list[list[str]] = field(default_factory=list)
    growth: list[list[str]] = field(default_factory=list)
    on_gpu: list[list[str]] = field(default_factory=list)

    def add(self, row: Row, found: dict[str, Figures | str]) -> None:
        """Add a row: the first contender with its bounds, and all contenders side by side."""
        ours = next(iter(found.values()))
        self.rows.append([row.work, *_cells(ours)])
        self.rows.append(["bound", *bounds(row)])
        if row.beside:
            for name, figures in found.items():
                self.beside.append([row.work, name, *_cells(figures)])

    def markdown(self) -> str:
        """All tables; empty where nothing was measured."""
        parts = [
            _table("The hook that ships here, untiled = 1", ("work", *GIVEN), self.rows),
            _table("Side by side, untiled = 1", ("work", "hook", *GIVEN), self.beside),
            _table(
                "Peak over weights at fixed tiles of 128 px",
                ("decoder", "image", "untiled", "hook", "growth against untiled's"),
                self.growth,
            ),
            _table(
                "`tiled(vae)` on an H200, estimated, bfloat16, untiled = 1", ON_GPU, self.on_gpu
            ),
        ]
        return "\n\n".join(part for part in parts if part)


TABLES = pytest.StashKey[Tables]()


def _cells(figures: Figures | str) -> list[str]:
    if isinstance(figures, Figures):
        return words(figures)
    return [figures, *[""] * (len(GIVEN) - 1)]


def _table(title: str, heads: Sequence[str], lines: list[list[str]]) -> str:
    return f"## {title}\n\n{table(lines, heads)}\n" if lines else ""
