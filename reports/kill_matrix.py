"""The kill matrix: what the checks make of hooks that are broken on purpose, as Markdown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A hook with a random fault, and what became of it."""

    name: str
    hook: str
    """The sound hook that it was made from."""
    level: str
    operator: str
    place: str
    """Function and value, or line."""
    acted: bool = False
    """Whether the fault has changed a value at all."""
    cases: int = 0
    """That it met."""
    check: str = ""
    """The first that accused it; empty where none did."""
    checks: tuple[str, ...] = ()
    """All that did in that case."""
    case: str = ""
    crash: bool = False
    """Whether it raised, hung or died, which needs no harness to be seen."""
    message: str = ""
    other_output: int = 0
    """Cases, passed, in which the output is not to the bit that of the sound hook."""
    other_numbers: int = 0
    """Cases, passed, in which bytes, work, calls or distances are not those of the sound hook."""

    @property
    def equivalent(self) -> bool:
        """Whether no case of the default matrix tells it from the sound hook."""
        return not self.check and not self.other_output and not self.other_numbers
