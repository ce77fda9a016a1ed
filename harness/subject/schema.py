"""The shape of a profile file, and sentences for what does not fit it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from vae_compat.contracts.cases import Direction, Layout, Mode
from vae_compat.contracts.finding import Grade
from vae_compat.contracts.promise import Bounds
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.subject.profile import (
    CODERS_OF_HOST,
    CONTEXT_OF_HOST,
    HOSTS,
    Axes,
    Cache,
    Claims,
    Coder,
    Context,
    Cost,
    HookSpec,
    Kind,
    KnownFailure,
    Profile,
    Setting,
    When,
)
from vae_compat.vocabulary import RANKS, Gpu

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_NAME_LENGTH = 80
MOST_RANKS = 8
"""Each is a process that holds a VAE."""
_Name = Annotated[_Text, StringConstraints(pattern=r"^[A-Za-z0-9._+-]+$", max_length=_NAME_LENGTH)]
"""It is part of test ids, where brackets and colons have a meaning, and of file names."""
_Mode = Literal["exact", "fast", "color_fix", "quadtree"]
_Grade = Literal["exact", "lossless", "close", "degraded"]
"""Grades that can be promised; ``broken`` cannot."""


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Hook(_Table):
    name: _Name
    entry: _Text
    kind: Literal["forward", "vae", "function", "ranks"]
    layout: Literal["diffusers", "ldm", "wan"]
    host: _Text | None = None
    settings: dict[Setting, _Text] = Field(default_factory=dict)


class _Cost(_Table):
    time_ratio: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    gpu: _Text = str(Gpu.H200)
    waits_per_tile: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    host_memory: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class _Bounds(_Table):
    psnr: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    levels: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    seams: bool = False


class _Claims(_Table):
    families: list[str] = Field(default_factory=list)
    directions: list[Literal["encode", "decode"]] = Field(default_factory=list)
    modes: list[_Mode] = Field(default_factory=list)
    cache: Literal["none", "fallback", "split"] = "none"
    overlap: bool = False
    parks: bool = False
    when: Literal["always", "memory"] = "always"
    coders: list[Literal["offloaded", "static", "patched"]] | None = None
    context: Literal["no_grad", "inference_mode"] | None = None
    cost: _Cost = Field(default_factory=_Cost)
    axes: Literal["both", "height", "width"] = "both"
    temporal: bool = False
    ranks: list[int] | None = None
    slices: bool = False
    tile_multiple: int = Field(default=1, gt=0, le=512)
    passes: Literal[1, 2, 3, 4] = 1
    bounds: _Bounds | None = None
    grade: dict[_Mode, _Grade] = Field(default_factory=dict)
    family_grade: dict[str, dict[_Mode, _Grade]] = Field(default_factory=dict)


class _KnownFailure(_Table):
    id: _Text
    reason: _Text
    link: str = ""


class _Profile(_Table):
    hook: _Hook
    claims: _Claims = Field(default_factory=_Claims)
    known_failures: list[_KnownFailure] = Field(default_factory=list)


_TABLES: Mapping[str, type[_Table]] = {
    "": _Profile,
    "hook": _Hook,
    "claims": _Claims,
    "claims.cost": _Cost,
    "claims.bounds": _Bounds,
    "known_failures": _KnownFailure,
}
_TYPES = {
    "string_type": "text in quotes",
    "list_type": "a list",
    "bool_type": "true or false",
    "float_type": "a number",
    "int_type": "a whole number",
    "greater_than": "a number above 0",
    "less_than_equal": "at most 512 image pixels",
    "finite_number": "a finite number",
    "dict_type": "a table",
    "model_type": "a table",
}


def parse_profile(text: str, *, source: str, folder: Path) -> Profile:
    """A profile from TOML text. Raises ``UsageError`` that names ``source``."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not valid TOML: {error}.") from None
    except ValueError as error:  # a number too long to convert
        raise UsageError(f"{source} is not valid TOML: {error}.") from None
    except RecursionError:
        raise UsageError(f"{source} is nested too deep: a profile has tables in tables.") from None
    return build_profile(tables, source=source, folder=folder)


def build_profile(tables: Mapping[str, Any], *, source: str, folder: Path) -> Profile:
    """A profile from its tables. Raises ``UsageError`` that names ``source``."""
    try:
        parsed = _Profile.model_validate(dict(tables))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # A misspelt table gives two errors: it is unknown, and the intended one is missing.
        unknown = (each for each in problems if each["type"] == "extra_forbidden")
        problem = next(unknown, problems[0])
        raise UsageError(_sentence(problem, source)) from None
    for family in parsed.claims.families:
        _one_of(family, FAMILIES, "claims.families", source)
    _one_of(parsed.claims.cost.gpu, map(str, Gpu), "claims.cost.gpu", source)
    _check_grades(parsed.claims, source)
    if parsed.claims.parks and parsed.claims.cache != "split":
        raise UsageError(
            f"claims.parks in {source} is true, but only split caches can be parked; "
            f"claim cache = 'split', or drop it."
        )
    _check_ranks(parsed, source)
    if parsed.hook.host is not None:
        _one_of(parsed.hook.host, HOSTS, "hook.host", source)
    bounds, cost = parsed.claims.bounds, parsed.claims.cost
    return Profile(
        hook=HookSpec(
            name=parsed.hook.name,
            entry=parsed.hook.entry,
            kind=Kind(parsed.hook.kind),
            layout=Layout(parsed.hook.layout),
            host=parsed.hook.host,
            settings={str(name): own for name, own in parsed.hook.settings.items()},
        ),
        claims=Claims(
            families=tuple(dict.fromkeys(parsed.claims.families)),
            directions=tuple(dict.fromkeys(Direction(d) for d in parsed.claims.directions)),
            modes=tuple(dict.fromkeys(Mode(m) for m in parsed.claims.modes)),
            cache=Cache(parsed.claims.cache),
            overlap=parsed.claims.overlap,
            parks=parsed.claims.parks,
            when=When(parsed.claims.when),
            coders=_coders(parsed),
            context=_context(parsed),
            cost=Cost(cost.time_ratio, Gpu(cost.gpu), cost.waits_per_tile, cost.host_memory),
            axes=Axes(parsed.claims.axes),
            temporal=parsed.claims.temporal,
            ranks=tuple(dict.fromkeys(parsed.claims.ranks or RANKS)),
            slices=parsed.claims.slices,
            tile_multiple=parsed.claims.tile_multiple,
            passes=parsed.claims.passes,
            bounds=None if bounds is None else Bounds(bounds.psnr, bounds.levels, bounds.seams),
            grade=_graded(parsed.claims.grade),
            family_grade={f: _graded(g) for f, g in parsed.claims.family_grade.items()},
        ),
        known_failures=tuple(
            KnownFailure(known.id, known.reason, known.link) for known in parsed.known_failures
        ),
        folder=folder,
        source=source,
    )


def _check_grades(claims: _Claims, source: str) -> None:
    """Only what is claimed has a grade."""
    tables = {"claims.grade": claims.grade}
    for family, grades in claims.family_grade.items():
        _one_of(family, FAMILIES, "claims.family_grade", source)
        if family not in claims.families:
            raise UsageError(
                f"claims.family_grade in {source} grades family {family!r}, which "
                f"claims.families does not list; claim the family or drop its grades."
            )
        tables[f"claims.family_grade.{family}"] = grades
    for table, grades in tables.items():
        for mode in grades:
            if mode not in claims.modes:
                raise UsageError(
                    f"{table} in {source} grades mode {mode!r}, which claims.modes does not "
                    f"list; claim the mode or drop its grade."
                )


def _check_ranks(parsed: _Profile, source: str) -> None:
    told = parsed.claims.ranks
    if told is None:
        return
    if Kind(parsed.hook.kind) is not Kind.RANKS:
        raise UsageError(
            f"claims.ranks in {source} counts processes, which a hook of kind "
            f"{parsed.hook.kind!r} does not have; say kind = 'ranks', or drop it."
        )
    wrong = [count for count in told if not 2 <= count <= MOST_RANKS]
    if wrong or not told:
        raise UsageError(
            f"claims.ranks in {source} is {told}; it must list numbers of processes, each from 2 "
            f"to {MOST_RANKS}."
        )


def _coders(parsed: _Profile) -> tuple[Coder, ...]:
    """What is claimed, or what hooks meet in the host."""
    told = parsed.claims.coders
    if told is None:
        return CODERS_OF_HOST.get(parsed.hook.host or "", ())
    return tuple(dict.fromkeys(map(Coder, told)))


def _context(parsed: _Profile) -> Context | None:
    """What is claimed, or how the host calls hooks."""
    told = parsed.claims.context
    return CONTEXT_OF_HOST.get(parsed.hook.host or "") if told is None else Context(told)


def _graded(grades: Mapping[_Mode, _Grade]) -> dict[Mode, Grade]:
    return {Mode(mode): Grade(grade) for mode, grade in grades.items()}


def _one_of(value: str, allowed: Iterable[str], key: str, source: str) -> None:
    if value not in (names := list(allowed)):
        raise UsageError(
            f"{key} in {source} says {value!r}; it must be {_choice(names)}{_hint(value, names)}."
        )


def _sentence(problem: Any, source: str) -> str:
    """One sentence for one problem that pydantic found."""
    where, got, kind = problem["loc"], problem["input"], problem["type"]
    grade_key = where[-1] == "[key]"
    names = [str(part) for part in where if isinstance(part, str) and part != "[key]"]
    key = ".".join(names)
    if kind == "extra_forbidden":
        table = ".".join(names[:-1])
        allowed = list(_TABLES[table].model_fields)
        place = f"[{table}]" if table else "a profile"
        if not table:
            near = get_close_matches(key, allowed, n=1)
            hint = f" (did you mean [{near[0]}]?)" if near else ""
            tables = ", ".join(f"[{name}]" for name in allowed)
            return f"{source} has the unknown table [{_brief(key)[1:-1]}]{hint}; it takes {tables}."
        return (
            f"{source} has the unknown key {_brief(key)}{_hint(names[-1], allowed)}; "
            f"{place} takes {', '.join(allowed)}."
        )
    if kind == "missing":
        return f"{source} lacks {key!r}; add it."
    if kind == "string_pattern_mismatch":
        return (
            f"{key} in {source} is {_brief(got)}, and names the hook in test ids: use only letters "
            f"without accents, digits, and the signs . _ + -."
        )
    if kind == "literal_error" and got == "broken" and "grade" in names[1]:
        return (
            f"{key} in {source} promises 'broken', which every output meets; promise "
            f"{_choice(_literals(problem))}, or do not claim the mode."
        )
    if kind == "literal_error":
        allowed = _literals(problem)
        if grade_key:
            return (
                f"{'.'.join(names[:-1])} in {source} grades {got!r}, which is no mode"
                f"{_hint(got, allowed)}; the modes are {', '.join(allowed)}."
            )
        return (
            f"{key} in {source} says {got!r}; it must be {_choice(allowed)}{_hint(got, allowed)}."
        )
    if kind == "string_too_long":
        return (
            f"{key} in {source} has {len(got)} characters, and is part of test ids: use at most"
            f" {_NAME_LENGTH}."
        )
    if kind == "string_too_short":
        return f"{key} in {source} is empty; fill it in."
    wanted = _TYPES.get(kind, "something else")
    return f"{key} in {source} is {_brief(got)}; it must be {wanted}."


def _brief(value: object) -> str:
    """A value as a sentence can hold it."""
    told = repr(value)
    return told if len(told) <= 80 else f"{told[:80]}..."


def _literals(problem: Any) -> list[str]:
    """The allowed values, which pydantic hands over as prose: ``'a', 'b' or 'c'``."""
    return [
        part.strip("'") for part in problem["ctx"]["expected"].replace(" or ", ", ").split(", ")
    ]


def _choice(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _hint(value: object, allowed: Iterable[str]) -> str:
    close = get_close_matches(str(value), list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
