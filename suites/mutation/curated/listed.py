"""The curated mutations, and how one is planted."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from vae_compat.suites.mutation.syntax import changed, module_file


@dataclass(frozen=True)
class Selection:
    """A part of the default matrix; it can only narrow the matrix, never widen it."""

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
    """A mistake in one function, the cases to run with it, and the checks that must fail there."""

    name: str
    within: str
    """Module and qualified name of the function: ``hook.VAEHook.item``."""
    old: str
    new: str
    fails: tuple[str, ...]
    selection: Selection

    def plant(self, package: Path) -> None:
        """Raises ``ValueError`` where the source has moved on."""
        module, _, function = self.within.partition(".")
        file = module_file(package, module)
        try:
            file.write_text(changed(file.read_text(), function, self.old, self.new))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.name}: {file.name}: {error}") from error


def mutations() -> list[Mutation]:
    """All of ``mutations.toml``."""
    text = Path(__file__).with_name("mutations.toml").read_text()
    found = []
    for table in tomllib.loads(text)["mutation"]:
        narrowed = {name: tuple(table.pop(name, ())) for name in Selection.__dataclass_fields__}
        fails = tuple(table.pop("fails"))
        found.append(Mutation(**table, fails=fails, selection=Selection(**narrowed)))
    return found
