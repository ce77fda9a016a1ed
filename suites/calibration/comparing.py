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
from vae_compat.suites.calibration.scenes import Said

ALLOWED = 0.05
"""By how much the peak of live bytes may differ, workspaces set aside."""
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

    @property
    def known_as(self) -> str | None:
        """The name by which times of this GPU are estimated; ``None`` where they cannot be."""
        return next((key for key, gpu in gpus().items() if gpu.name == self.gpu), None)


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
                bound = ALLOWED if field.name == "peak" else None
                found.append(Row(scene, WORDS[field.name], *pair, bound=bound))
    return tuple(found)


def told(found: Iterable[Row]) -> str:
    """A table of the differences, and how many are out of bounds."""
    some = list(found)
    table = plain_table()
    for head in ("scene", "what", "sim", "GPU", "sim is", ""):
        table.add_column(head, no_wrap=True)
    scene = ""
    for row in some:
        words = [_number(row.what, value) for value in (row.simulated, row.measured)]
        mark = "" if row.bound is None else "ok" if row.holds else f"MORE THAN {row.bound:.0%}"
        first = row.scene if row.scene != scene else ""
        table.add_row(first, row.what, *words, f"{row.difference:+.1%}", mark)
        scene = row.scene
    bounded = [row for row in some if row.bound is not None]
    wrong = sum(not row.holds for row in bounded)
    end = f"{len(bounded)} peaks without workspaces, {wrong} differ by more than {ALLOWED:.0%}"
    return rendered([table], width=140) + end + "\n"


def _number(what: str, value: float) -> str:
    if what == WORDS["seconds"]:
        return f"{value * 1e3:,.1f} ms"
    if what == WORDS["flops"]:
        return f"{value / 1e12:,.3f} T"
    return f"{value / 2**20:,.0f} MiB"
