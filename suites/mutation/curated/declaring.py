"""How a curated mutation is declared: by what a function of the hook does wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vae_compat.suites.mutation.copies import Copy, Wrong, copied, copied_with

PACKAGE, ENTRY = "vae_compat.tiled_vae", ":VAEHook"


@dataclass(frozen=True)
class Mutation:
    """A mistake in one function, the case to run with it, and the checks that must fail there."""

    name: str
    within: str
    """The function, by the end of its dotted path: ``VAEHook.items``, ``attention.attend``."""
    calls: str | None
    """What it calls there, where that is wrong and not the function itself."""
    wrong: Wrong
    setup: str
    case: str
    fails: tuple[str, ...]

    def plant(self) -> Copy:
        """A copy of the hook with it. Raises ``LookupError`` where the source has moved on."""
        if self.calls is not None:
            return copied_with(PACKAGE, ENTRY, self.within, self.calls, self.wrong)
        copy = copied(PACKAGE, ENTRY)
        try:
            copy.replace(self.within, self.wrong)
        except LookupError:
            copy.forget()
            raise
        return copy


@dataclass(frozen=True)
class Topic:
    """Mutations of one part of the hook."""

    mutations: list[Mutation]

    def mutation(
        self,
        within: str,
        case: str,
        *fails: str,
        calls: str | None = None,
        setup: str = "reference",
    ) -> Callable[[Wrong], Wrong]:
        """Declare one: the decorated function takes the right function and returns a wrong one."""

        def declare(wrong: Wrong) -> Wrong:
            name = wrong.__name__.replace("_", "-")
            self.mutations.append(Mutation(name, within, calls, wrong, setup, case, fails))
            return wrong

        return declare


def returning(change: Callable[..., object]) -> Wrong:
    """A wrong function that changes what the right one returns; it is given the arguments too."""
    return lambda right: lambda *args, **kwargs: change(right(*args, **kwargs), *args, **kwargs)


def nothing(right: Callable[..., object]) -> Callable[..., None]:
    """In the place of a call that is left out."""
    del right
    return lambda *args, **kwargs: None


def all_of(topics: Sequence[Topic]) -> list[Mutation]:
    """The mutations of several topics. Raises ``ValueError`` where two have one name."""
    found = [each for topic in topics for each in topic.mutations]
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise ValueError(f"two mutations have one name: {sorted(names)}")
    return found
