"""A seeded generator of faults, and hooks that have them.

No list of places is kept: a sound hook is watched while it works, and whatever function it calls,
whatever value goes in or comes out, is a place where a fault can be planted.
"""

from __future__ import annotations

import functools
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from types import CodeType, FrameType, FunctionType
from typing import Any, Protocol

import torch

from vae_compat.subject.hook import Hook
from vae_compat.subject.profile import Profile
from vae_compat.suites.mutation.copies import Copy, copied
from vae_compat.suites.mutation.random_faults.values import (
    KINDS,
    Route,
    at,
    differs,
    kind_of,
    parts,
    put,
)
from vae_compat.suites.mutation.trial import Tried, tried

RESULT = "result"
TIMES = ("always", "first", "later", "once")
"""On which of its calls a fault acts; ``once`` is one call of those that every case makes."""


@dataclass(frozen=True)
class Target:
    """A sound hook that faults are planted in."""

    profile: Profile
    package: str
    entry: str
    """Module of the package and attribute."""
    levels: tuple[tuple[str, str], ...]
    """Patterns of the ends of functions' dotted paths, and what a fault there is a fault of; the
    first that matches counts."""

    def level(self, function: str) -> str | None:
        """``tile``, ``halo``, ``statistics``, ``cache``, ``merge`` or ``install``."""
        name = f".{function}"
        return next((level for shape, level in self.levels if fnmatch(name, f"*.{shape}")), None)

    def copy(self, code: dict[str, CodeType] | None = None) -> Copy:
        """A fresh copy of the hook."""
        return copied(self.package, self.entry, code)

    def subject(self, name: str, source: Any) -> Tried:
        """What a run takes for a hook under test."""
        spec = replace(self.profile.hook, name=name)
        with source.loaded(torch.device("cpu")) as entry:
            hook = Hook.of(spec, source, entry)
        return tried(replace(self.profile, hook=spec), hook)


@dataclass(frozen=True, order=True)
class Site:
    """A place where a value passes: a parameter or a result of a function."""

    function: str
    slot: str
    """`RESULT` or the name of a parameter."""
    path: Route
    kind: str

    def __str__(self) -> str:
        inside = "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in self.path)
        return f"{self.function}({self.slot}{inside})"


class Fault(Protocol):
    """One planted fault."""

    @property
    def level(self) -> str: ...

    @property
    def function(self) -> str: ...

    @property
    def operator(self) -> str: ...

    @property
    def which(self) -> int:
        """The first call of the function on which it acts."""
        ...

    @property
    def place(self) -> str: ...

    def plant(self) -> Copy:
        """A copy of the target with the fault."""
        ...

    def reset(self) -> None:
        """A new case begins."""
        ...

    @property
    def acted(self) -> bool:
        """Whether it has changed anything yet, as far as that can be seen."""
        ...


@dataclass
class ValueFault:
    """A wrong value, at one place, on some calls."""

    target: Target
    site: Site
    operator: str
    times: str
    which: int
    """The first call on which it acts, or the one."""
    acted: bool = False
    _calls: int = 0
    _seen: Any = None
    _busy: bool = field(default=False, repr=False)

    @property
    def level(self) -> str:
        """What it is a fault of."""
        return self.target.level(self.site.function) or ""

    @property
    def function(self) -> str:
        """In which it is."""
        return self.site.function

    @property
    def place(self) -> str:
        """Where, and when."""
        return f"{self.site} {self.times if self.times != 'once' else f'call {self.which}'}"

    def plant(self) -> Copy:
        """A copy of the target with the fault."""
        copy = self.target.copy()
        copy.replace(self.site.function, self._wrapped)
        return copy

    def reset(self) -> None:
        """A new case begins."""
        self._calls, self._seen = 0, None

    def _wrapped(self, function: FunctionType) -> Callable[..., Any]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrong(*args: Any, **kwargs: Any) -> Any:
            self._calls += 1
            if self.site.kind == "call":
                times = KINDS["call"][self.operator](None, None) if self._due() else 1
                self.acted = self.acted or times != 1
                result = None
                for _ in range(times):
                    result = function(*args, **kwargs)
                return result
            if self.site.slot == RESULT:
                return self._changed(function(*args, **kwargs))
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            name = self.site.slot
            given.arguments[name] = self._changed(given.arguments[name])
            return function(*given.args, **given.kwargs)

        return wrong

    def _due(self) -> bool:
        return {
            "always": True,
            "first": self._calls == 1,
            "later": self._calls > 1,
            "once": self._calls == self.which,
        }[self.times]

    def _changed(self, value: Any) -> Any:
        try:
            part = at(value, self.site.path)
        except LookupError:
            return value
        if kind_of(part) != self.site.kind:
            return value
        seen, self._seen = self._seen, part
        if not self._due():
            return value
        wrong = KINDS[self.site.kind][self.operator](part, seen)
        self.acted = self.acted or differs(part, wrong)
        return put(value, self.site.path, wrong)


@dataclass
class Planted:
    """Where a hook with a fault comes from: loaded once, and reset for every case."""

    fault: Fault
    _copy: Copy | None = None

    @contextmanager
    def loaded(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Iterator[Any]:
        """The entry's attribute."""
        del device, dtype
        self.fault.reset()
        if self._copy is None:
            self._copy = self.fault.plant()
        yield self._copy.attribute

    def forget(self) -> None:
        """Drop it."""
        if self._copy is not None:
            self._copy.forget()
            self._copy = None


# Watching -----------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What a sound hook did: the places of values, and the lines that ran."""

    sites: set[Site] = field(default_factory=set)
    calls: dict[str, dict[str, int]] = field(default_factory=dict)
    """How often a function was called after one loading of the hook, by the ids of the cases."""
    lines: set[tuple[str, int]] = field(default_factory=set)
    """Module and line."""

    def add(self, other: Seen) -> None:
        """Take in what was seen in other cases."""
        self.sites |= other.sites
        self.lines |= other.lines
        for function, counts in other.calls.items():
            self.calls.setdefault(function, {}).update(counts)

    def reaches(self, case: str, function: str, which: int) -> bool:
        """Whether a case calls a function so often; one that is not watched may be called."""
        return function not in self.calls or self.calls[function].get(case, 0) >= which


ENOUGH = 8
"""Calls of a function, in one case, that are looked at closely."""


@dataclass
class Watch:
    """Where a sound hook under watch comes from."""

    target: Target
    seen: Seen = field(default_factory=Seen)
    case: str = ""
    """Id of the case that runs."""
    lines: bool = True
    """Whether to note the lines that run in it, which takes its time."""
    _copy: Copy | None = None
    _traced: dict[CodeType, int] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def loaded(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Iterator[Any]:
        """The hook under watch."""
        del device, dtype
        if self._copy is None:
            self._copy = self.target.copy()
            for name, _ in list(self._copy.functions()):
                self._copy.replace(name, functools.partial(self._watched, name))
        self._traced.clear()
        self._counts.clear()
        before = sys.gettrace()
        if self.lines:
            sys.settrace(self._trace)
        try:
            yield self._copy.attribute
        finally:
            sys.settrace(before)

    def _watched(self, name: str, function: FunctionType) -> Callable[..., Any]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def watching(*args: Any, **kwargs: Any) -> Any:
            self._counts[name] = calls = self._counts.get(name, 0) + 1
            most = self.seen.calls.setdefault(name, {})
            most[self.case] = max(most.get(self.case, 0), calls)
            if calls > ENOUGH:
                return function(*args, **kwargs)
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            for slot, value in given.arguments.items():
                self._note(name, slot, value)
            result = function(*args, **kwargs)
            self._note(name, RESULT, result)
            return result

        return watching

    def _note(self, function: str, slot: str, value: Any) -> None:
        if slot == RESULT and value is None:
            self.seen.sites.add(Site(function, slot, (), "call"))
            return
        for path, part in parts(value):
            if (kind := kind_of(part)) is not None:
                self.seen.sites.add(Site(function, slot, path, kind))

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        assert self._copy is not None
        name, inside = frame.f_globals.get("__name__", ""), f"{self._copy.name}."
        if not name.startswith(inside):
            return None
        if event == "call":
            self._traced[frame.f_code] = calls = self._traced.get(frame.f_code, 0) + 1
            return self._trace if calls <= ENOUGH else None
        if event == "line":
            self.seen.lines.add((name.removeprefix(inside), frame.f_lineno))
        return self._trace


def value_faults(
    target: Target, seen: Seen, seed: int, counts: Mapping[str, int]
) -> list[ValueFault]:
    """So many distinct faults of each level, every one with a place that was seen at work.

    A function is drawn first, then a value of it, an operator and the calls on which it acts: small
    functions are as likely to be hit as large ones. Where values of several kinds were seen at one
    place, an operator that several of them have is one fault.
    """
    chance = random.Random(seed)
    found: list[ValueFault] = []
    for level, wanted in counts.items():
        by_function: dict[str, list[Site]] = {}
        for site in sorted(seen.sites, key=lambda site: (str(site), site.kind)):
            if target.level(site.function) == level:
                by_function.setdefault(site.function, []).append(site)
        known: set[tuple[Any, ...]] = set()
        for _ in range(wanted * 20):
            if len(known) == wanted or not by_function:
                break
            function = chance.choice(list(by_function))
            site = chance.choice(by_function[function])
            operator = chance.choice(list(KINDS[site.kind]))
            several = [calls for calls in seen.calls[function].values() if calls > 1]
            times = chance.choice(TIMES if several else TIMES[:1])
            if operator == "stale" and times not in ("later", "once"):
                continue  # no value was seen there before
            which = {"once": chance.randint(2, min(several, default=2)), "later": 2}.get(times, 1)
            if (key := (str(site), operator, times)) not in known:
                known.add(key)
                found.append(ValueFault(target, site, operator, times, which))
    return found
