"""The list of defects, and how one is planted."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Selection:
    """A part of the default matrix: there is nothing here that could ask for more."""

    families: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    scale: tuple[str, ...] = ()

    @property
    def options(self) -> list[str]:
        return [
            word
            for name, values in vars(self).items()
            if values
            for word in (f"--{name}", ",".join(values))
        ]

    def __str__(self) -> str:
        return "-".join("+".join(values) for values in vars(self).values() if values)


@dataclass(frozen=True)
class Mutation:
    """A patch, where its defect is looked for, and the checks that fail there."""

    name: str
    file: str
    old: str
    new: str
    fails: tuple[str, ...]
    selection: Selection

    def plant(self, package: Path) -> None:
        """Raises ``ValueError`` where the source has moved on."""
        file = package / self.file
        source = file.read_text()
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.file} has its old text {count} times, not once")
        file.write_text(source.replace(self.old, self.new))


def mutations() -> list[Mutation]:
    """All of ``mutations.toml``."""
    text = Path(__file__).with_name("mutations.toml").read_text()
    found = []
    for table in tomllib.loads(text)["mutation"]:
        narrowed = {name: tuple(table.pop(name, ())) for name in Selection.__dataclass_fields__}
        fails = tuple(table.pop("fails"))
        found.append(Mutation(**table, fails=fails, selection=Selection(**narrowed)))
    return found
