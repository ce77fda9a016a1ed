"""The kill matrix, as Markdown: which checks catch which known-bad hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .markdown import line, table


@dataclass(frozen=True)
class Trial:
    """A known-bad or sound hook (a specimen), and the verdict of each check."""

    name: str
    killed_by: str | None
    """The check that must catch its defect; ``None`` for a sound hook."""
    tier: str = ""
    """Tier of that check."""
    judged: Mapping[str, int] = field(default_factory=dict)
    """Records of each check."""
    wrong: Mapping[str, int] = field(default_factory=dict)
    """Records of each check that accuse the hook."""
    causes: frozenset[str] = frozenset()
    """Checks that fail on their own, not because another check could not judge."""
    message: str = ""
    """The first of the check named, or of any that accuses a sound hook."""
    mechanism: str | None = None
    """The one that it breaks."""
    diagnosed: str | None = None
    """The one that was named."""

    @property
    def sound(self) -> bool:
        """Whether it is sound, so that no check may fail."""
        return self.killed_by is None

    @property
    def as_should_be(self) -> bool:
        """Whether the named check caught it, or no check failed if it is sound."""
        return not any(self.wrong.values()) if self.sound else self.killed_by in self.causes


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
    """The first check that failed; empty where none did."""
    checks: tuple[str, ...] = ()
    """All checks that failed in that case."""
    case: str = ""
    crash: bool = False
    """Whether it raised, hung or died, which needs no harness to be seen."""
    message: str = ""
    other_output: int = 0
    """Cases, passed, in which the output is not to the bit that of the sound hook."""
    other_numbers: int = 0
    """Cases, passed, in which bytes, work, calls or distances are not those of the sound hook."""
    worse: str = ""
    """The first counter that grew by more than `vae_compat.reports.compare` lets pass."""
    reviewed: str = ""
    """Why a survivor is as sound as the original hook, as found by review."""

    @property
    def equivalent(self) -> str:
        """Why it is not a fault; empty where it is one as far as is known."""
        if self.check or self.worse:
            return ""
        if not self.acted:
            return "changes no value in any case"
        if self.other_output:
            return self.reviewed
        same = "the same output to the bit in every case, and "
        return same + (
            "no counter worse" if self.other_numbers else "the same bytes, work and calls"
        )


@dataclass(frozen=True)
class Matrix:
    """Everything that was tried."""

    checks: Sequence[str]
    trials: Sequence[Trial]
    mutants: Sequence[Mutant]
    seed: int
    informing: frozenset[str] = frozenset()
    """Checks that only report numbers, and cannot fail."""

    @property
    def broken(self) -> list[Trial]:
        """Known-bad hooks."""
        return [trial for trial in self.trials if not trial.sound]

    @property
    def killed(self) -> list[Trial]:
        """Known-bad hooks that were caught by the check named for them."""
        return [trial for trial in self.broken if trial.as_should_be]

    @property
    def false_alarms(self) -> list[Trial]:
        """Sound hooks on which some check fails."""
        return [trial for trial in self.trials if trial.sound and not trial.as_should_be]

    @property
    def faults(self) -> list[Mutant]:
        """Mutants that are not equivalent."""
        return [mutant for mutant in self.mutants if not mutant.equivalent]

    @property
    def survivors(self) -> list[Mutant]:
        """Mutants on which no check failed."""
        return [mutant for mutant in self.faults if not mutant.check and not mutant.worse]

    @property
    def costly(self) -> list[Mutant]:
        """Mutants with a right result, caught only by a comparison with an earlier run."""
        return [mutant for mutant in self.faults if not mutant.check and mutant.worse]

    @property
    def kill_rate(self) -> float:
        """Share of killed ones among the mutants that are not equivalent."""
        return 1 - len(self.survivors) / len(self.faults) if self.faults else 0.0

    @property
    def diagnosed(self) -> list[Trial]:
        """Known-bad hooks that break a single mechanism."""
        return [trial for trial in self.broken if trial.mechanism is not None]

    @property
    def rightly_diagnosed(self) -> list[Trial]:
        """Known-bad hooks whose mechanism was named."""
        return [trial for trial in self.diagnosed if trial.diagnosed == trial.mechanism]

    @property
    def never_failed(self) -> list[str]:
        """Checks that no specimen and no mutant has made fail on their own account."""
        failed = {check for trial in self.broken for check in trial.causes}
        failed |= {check for mutant in self.mutants for check in mutant.checks}
        return [check for check in self.checks if check not in failed | self.informing]


def to_text(matrix: Matrix) -> str:
    """The figures, a line each."""
    crashed = sum(mutant.crash for mutant in matrix.faults)
    costly = len(matrix.costly)
    judged = len(matrix.faults) - len(matrix.survivors) - crashed - costly
    sound = len(matrix.trials) - len(matrix.broken)
    lines = [
        f"Specimens killed by the check named for them: {len(matrix.killed)} of "
        f"{len(matrix.broken)}",
        f"False alarms: {len(matrix.false_alarms)} of {sound} sound hooks",
        f"Random mutants killed: {len(matrix.faults) - len(matrix.survivors)} of "
        f"{len(matrix.faults)} ({matrix.kill_rate:.1%}), {judged} of them by what a check "
        f"measured, {crashed} by a crash and {costly} by comparing with an earlier run (right, and "
        f"dearer); {len(matrix.mutants) - len(matrix.faults)} more are equivalent",
        f"Mechanism named rightly: {len(matrix.rightly_diagnosed)} of {len(matrix.diagnosed)}",
        f"Checks that nothing made fail: {', '.join(matrix.never_failed) or 'none'}, of "
        f"{len(matrix.checks) - len(matrix.informing)} that can; beside them only informs: "
        f"{', '.join(sorted(matrix.informing)) or 'none'}",
    ]
    return "\n".join(lines) + "\n"


def to_markdown(matrix: Matrix) -> str:
    """Figures, specimens against checks, mutants by level and operator, survivors one by one."""
    return "\n".join(_parts(matrix)) + "\n"


def _parts(matrix: Matrix) -> Iterator[str]:
    yield "# Kill matrix\n"
    yield from (f"- {line}" for line in to_text(matrix).splitlines())
    yield "\n## Specimens\n"
    yield "`K` the check named for the defect fails, `x` another one does, `.` passes.\n"
    used = [check for check in matrix.checks if any(check in t.judged for t in matrix.trials)]
    rows = [[t.name, *(_mark(t, check) for check in used)] for t in matrix.trials]
    yield _table(rows, ["specimen", *used])
    for trial in matrix.trials:
        if not trial.as_should_be:
            wanted = f"`{trial.killed_by}` does not fail" if trial.killed_by else "accused"
            yield f"- **{trial.name}**: {wanted}. {line(trial.message)}"
    wrongly = [trial for trial in matrix.diagnosed if trial not in matrix.rightly_diagnosed]
    for trial in wrongly:
        yield f"- **{trial.name}**: breaks {trial.mechanism}, named was {trial.diagnosed}"
    yield f"\n## Random mutants (seed {matrix.seed})\n"
    for name, key in (("level", _level), ("operator", _operator), ("first check to fail", _check)):
        yield _counted(matrix.mutants, name, key)
    yield "### Survivors\n"
    rows = [[f"`{m.name}`", m.level, m.operator, m.place] for m in matrix.survivors]
    yield _table(rows, ["mutant", "level", "operator", "place"])
    yield "### Right, and dearer\n"
    rows = [[f"`{m.name}`", m.operator, m.place, m.worse] for m in matrix.costly]
    yield _table(rows, ["mutant", "operator", "place", "first"])
    yield "### Equivalent\n"
    rows = [
        [f"`{m.name}`", m.operator, m.place, str(m.cases), m.equivalent]
        for m in matrix.mutants
        if m.equivalent
    ]
    yield _table(rows, ["mutant", "operator", "place", "cases", "why"])


def _mark(trial: Trial, check: str) -> str:
    if check not in trial.judged:
        return ""
    if check not in trial.wrong:
        return "."
    return "K" if check == trial.killed_by else "x"


def _level(mutant: Mutant) -> str:
    return mutant.level


def _operator(mutant: Mutant) -> str:
    return mutant.operator


def _check(mutant: Mutant) -> str:
    return mutant.check or ("comparison" if mutant.worse else "none")


def _counted(mutants: Iterable[Mutant], name: str, key: Callable[[Mutant], str]) -> str:
    groups: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        groups.setdefault(key(mutant), []).append(mutant)
    rows = [
        [
            group,
            len(some),
            sum(bool(m.check) and not m.crash for m in some),
            sum(m.crash for m in some),
            sum(not m.check and bool(m.worse) for m in some),
            sum(bool(m.equivalent) for m in some),
            sum(not m.check and not m.worse and not m.equivalent for m in some),
        ]
        for group, some in sorted(groups.items())
    ]
    head = [name, "drawn", "by a check", "by a crash", "by comparison", "equivalent", "survived"]
    return _table(rows, head)


def _table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    return (table(rows, head) if rows else "None.") + "\n"
