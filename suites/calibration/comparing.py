"""What the simulated accelerator says beside what a GPU said, and what is kept of that."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from vae_compat.device.estimate import gpus
from vae_compat.errors import UsageError
from vae_compat.reports.results import check_regular, parsed_json, validated, write_text
from vae_compat.reports.table import plain_table, rendered
from vae_compat.suites.calibration.scenes import SCENES, Said

ALLOWED = {"peak": 0.05, "peak_with_workspaces": 0.10}
"""Share by which the peak of live bytes may differ, workspaces set aside and with them."""
FACTOR = 1.6
"""Factor by which an estimated time may be off, either way."""
SHARE = 0.9
"""Share of the times that must be within that factor."""
WORDS = {
    "peak": "peak",
    "peak_with_workspaces": "peak with workspaces",
    "flops": "FLOPs",
    "seconds": "time",
}


@dataclass(frozen=True)
class Recorded:
    """What one GPU said of some scenes."""

    gpu: str
    torch: str
    source: str
    """Who measured it, and with what."""
    scenes: Mapping[str, Said]
    channels_first_attention: bool = False
    """Whether the middle attention left planes channels-first there, as peaks of that GPU say to
    the MiB: with channels-last ones, which a CPU has, the last upsampling would need no copies in
    another layout, and an untiled decode at 1024 pixels 2048 MiB in place of 2432."""

    @property
    def known_as(self) -> str | None:
        """The name by which times of this GPU are estimated; ``None`` where they cannot be."""
        return next((key for key, gpu in gpus().items() if gpu.name == self.gpu), None)

    @property
    def times_tell(self) -> bool:
        """Whether the rates of the GPU were measured: those of datasheets promise no time."""
        return self.known_as is not None and gpus()[self.known_as].source == "measured"


@dataclass(frozen=True)
class Row:
    """One number of a scene."""

    scene: str
    what: str
    simulated: float
    measured: float
    bound: float | None = None
    """By how much it may differ; ``None`` where the difference is only told."""

    @property
    def difference(self) -> float:
        """How much more the simulated accelerator says, as a share of what the GPU said."""
        return self.simulated / self.measured - 1 if self.measured else float("inf")

    @property
    def holds(self) -> bool:
        """Whether it is within its bound, where it has one."""
        return self.bound is None or abs(self.difference) <= self.bound


def file_of(folder: Path, gpu: str) -> Path:
    """Where the repository keeps what a GPU said."""
    return folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', gpu)}.json"


def write(recorded: Recorded, folder: Path) -> Path:
    """Keep what a GPU said; scenes that it was not asked about this time are kept as they were."""
    file = file_of(folder, recorded.gpu)
    scenes = dict(recorded.scenes)
    if file.exists():
        earlier = read(file)
        if (earlier.torch, earlier.source) == (recorded.torch, recorded.source):
            scenes = {**earlier.scenes, **scenes}
    told = asdict(recorded) | {"scenes": {name: asdict(said) for name, said in scenes.items()}}
    return write_text(file, json.dumps(told, indent=1) + "\n")


def read(file: Path) -> Recorded:
    """What a GPU said. Raises ``UsageError`` where the file tells nothing of that."""
    check_regular(file, "give a file of reports/calibration")
    try:
        plain = parsed_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UsageError(f"'{file}' is no JSON: give a file of reports/calibration") from None
    return validated(Recorded, plain, file)


def rows(recorded: Recorded, simulated: Mapping[str, Said]) -> tuple[Row, ...]:
    """Every number that both have told."""
    found = []
    for scene, theirs in recorded.scenes.items():
        ours = simulated.get(scene)
        for field in fields(Said):
            if ours is None or field.name not in WORDS:
                continue
            pair = getattr(ours, field.name), getattr(theirs, field.name)
            if None not in pair:
                bound = ALLOWED.get(field.name)
                found.append(Row(scene, WORDS[field.name], *pair, bound=bound))
    return tuple(found)


@dataclass(frozen=True)
class Agreement:
    """What all rows together come to."""

    peaks: int
    wrong_peaks: int
    times: int
    near_times: int
    """Within ``FACTOR``."""
    orders: int
    """Groups of contenders for one input."""
    wrong_orders: tuple[str, ...]
    """Groups in which the estimates put the contenders in another order than the GPU."""

    def holds(self, *, times: bool = True) -> bool:
        """Whether peaks are within their bounds and, if they count, most times near in order."""
        near = self.near_times >= SHARE * self.times and not self.wrong_orders
        return not self.wrong_peaks and (near or not times)

    @property
    def words(self) -> str:
        """``12 peaks, 0 out of bounds; ...``."""
        found = f"{self.peaks} peaks, {self.wrong_peaks} out of bounds"
        if self.times:
            found += f"; {self.near_times} of {self.times} times within a factor of {FACTOR}"
        if self.orders:
            right = self.orders - len(self.wrong_orders)
            found += f"; the order of contenders right in {right} of {self.orders} groups"
        return found + "".join(f"; wrong: {group}" for group in self.wrong_orders)


def agreement(found: Iterable[Row]) -> Agreement:
    """How well the simulated accelerator tells what a GPU does."""
    some = list(found)
    bounded = [row for row in some if row.bound is not None]
    times = [row for row in some if row.what == WORDS["seconds"]]
    groups: dict[str, list[Row]] = {}
    for row in times:
        groups.setdefault(SCENES[row.scene].group if row.scene in SCENES else "", []).append(row)
    several = {group: rows for group, rows in groups.items() if len(rows) > 1}
    return Agreement(
        peaks=len(bounded),
        wrong_peaks=sum(not row.holds for row in bounded),
        times=len(times),
        near_times=sum(1 / FACTOR <= 1 + row.difference <= FACTOR for row in times),
        orders=len(several),
        wrong_orders=tuple(
            group
            for group, rows in several.items()
            if sorted(rows, key=lambda row: row.simulated)
            != sorted(rows, key=lambda row: row.measured)
        ),
    )


def told(found: Iterable[Row]) -> str:
    """A table of what both say, and what it comes to."""
    some = list(found)
    table = plain_table()
    for head in ("scene", "what", "sim", "GPU", "sim / GPU", ""):
        table.add_column(head, no_wrap=True)
    scene = ""
    for row in some:
        words = [_number(row.what, value) for value in (row.simulated, row.measured)]
        mark = "" if row.bound is None else "ok" if row.holds else f"MORE THAN {row.bound:.0%}"
        first = row.scene if row.scene != scene else ""
        table.add_row(first, row.what, *words, f"{1 + row.difference:.2f}", mark)
        scene = row.scene
    return rendered([table], width=140) + agreement(some).words + "\n"


def _number(what: str, value: float) -> str:
    if what == WORDS["seconds"]:
        return f"{value * 1e3:,.1f} ms"
    if what == WORDS["flops"]:
        return f"{value / 1e12:,.3f} T"
    return f"{value / 2**20:,.0f} MiB"
