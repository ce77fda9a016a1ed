"""memory.svg: what a clip takes on the device, chunk by chunk, beside untiled."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vae_compat.contracts.caseid import parse_case_id
from vae_compat.judge import Record
from vae_compat.text import printable

from .results import write_text

FILE_NAME = "memory.svg"
CHECK = "memory_growth"
SERIES = {
    "untiled_peak_bytes": ("untiled, peak", "tab:gray", "-"),
    "untiled_live_bytes": ("untiled, between chunks", "tab:gray", ":"),
    "peak_bytes": ("hook, peak", "tab:blue", "-"),
    "live_bytes": ("hook, between chunks", "tab:blue", ":"),
}
"""Metrics of a record, each a number a chunk, and how they are drawn."""


@dataclass(frozen=True)
class Course:
    """Memory over one clip."""

    hook: str
    family: str
    direction: str
    series: dict[str, list[float]]
    """MiB beyond what was live before the clip, a number a chunk."""


def courses(records: Iterable[Record]) -> list[Course]:
    """The longest clip that was measured, of each hook, family and direction."""
    found: dict[tuple[str, str, str], Course] = {}
    for record in records:
        case = parse_case_id(record.case)
        told = {name: record.metrics.get(name) for name in SERIES}
        if record.check != CHECK or case is None or not all(told.values()):
            continue
        series = {
            name: [int(part) / 2**20 for part in str(text).split()] for name, text in told.items()
        }
        key = (record.hook, case.family, case.direction)
        length = len(series["peak_bytes"])
        if key not in found or length > len(found[key].series["peak_bytes"]):
            found[key] = Course(*key, series)
    return list(found.values())


def write_plot(records: Iterable[Record], folder: Path) -> Path | None:
    """Write ``folder/memory.svg``; ``None``, and nothing left of an old one, without any clip."""
    drawn = courses(records)
    if not drawn:
        (folder / FILE_NAME).unlink(missing_ok=True)
        return None
    return write_text(folder / FILE_NAME, to_svg(drawn))


def to_svg(drawn: list[Course]) -> str:
    """A panel a clip, the same text for the same numbers."""
    import matplotlib as mpl  # takes a second: only where there is something to draw
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    across = min(2, len(drawn))
    down = -(-len(drawn) // across)
    with mpl.rc_context({"svg.hashsalt": "vae-compat", "svg.fonttype": "none"}):
        figure = Figure(figsize=(5 * across, 2.6 * down), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(down, across, squeeze=False).flat
        for panel, course in zip(panels, drawn, strict=False):
            for name, (label, colour, line) in SERIES.items():
                panel.plot(course.series[name], line, color=colour, marker=".", label=label)
            hook = printable(course.hook, 60).replace("$", r"\$")  # no formula
            panel.set_title(f"{hook}: {course.family} {course.direction}", fontsize="medium")
            panel.set_xlabel("chunk")
            panel.set_ylabel("MiB")
            panel.set_ylim(bottom=0)
        for panel in list(panels)[len(drawn) :]:
            panel.set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
